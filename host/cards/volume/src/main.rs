//! `azote-volume-card --control-fd N`: serves the controller at the other end of an inherited socket.

use clap::Parser;
use rustix::net::{SocketType, sockopt};
use std::{
    os::fd::{FromRawFd, OwnedFd, RawFd},
    process::ExitCode,
};
use volume_card::{Card, SANDBOX};

/// Shows network volumes as NVMe functions, encrypted. Started by the controller.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The inherited, connected SOCK_SEQPACKET socket of the controller.
    #[arg(long)]
    control_fd: RawFd,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = tracing_subscriber::EnvFilter::try_from_env("AZOTE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).init();
    // SAFETY: the controller gives this number and nobody else in this process uses it. If it is no open
    // descriptor, the next line says so before anything is done with it.
    let control = unsafe { OwnedFd::from_raw_fd(arguments.control_fd) };
    if sockopt::socket_type(&control) != Ok(SocketType::SEQPACKET) {
        tracing::error!("--control-fd is no SOCK_SEQPACKET socket: let the controller start the card");
        std::mem::forget(control);
        return ExitCode::from(2);
    }
    match serve(control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the card stops");
            ExitCode::FAILURE
        }
    }
}

fn serve(control: OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let policy = sandbox::Policy::parse(SANDBOX)?;
    let card = Card::new(control)?;
    policy.enter(&[])?;
    card.run()?;
    Ok(())
}
