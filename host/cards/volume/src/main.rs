//! `azote-volume-card`: serves the controller at the other end of its standard input.
#![forbid(unsafe_code)]

use clap::Parser;
use guest_memory::Sealing;
use rustix::net::{SocketType, sockopt};
use std::{
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};
use volume_card::{Card, SANDBOX};

/// Shows network volumes as NVMe functions, encrypted. Started by the controller, whose connected SOCK_SEQPACKET socket
/// is standard input.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Takes guest memory that its hypervisor can shrink, as Cloud Hypervisor's and that of files on tmpfs or
    /// hugetlbfs. A hypervisor that does shrink it kills the card (SIGBUS): only for a card that serves one.
    #[arg(long)]
    unsealed_memory: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).init();
    if sockopt::socket_type(std::io::stdin()) != Ok(SocketType::SEQPACKET) {
        tracing::error!("standard input is no SOCK_SEQPACKET socket: let the controller start the card");
        return ExitCode::from(2);
    }
    let sealing = if arguments.unsealed_memory { Sealing::Optional } else { Sealing::Required };
    let control = std::io::stdin().as_fd().try_clone_to_owned();
    match control.map_err(Into::into).and_then(|control| serve(control, sealing)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the card stops");
            ExitCode::FAILURE
        }
    }
}

fn serve(control: OwnedFd, sealing: Sealing) -> Result<(), Box<dyn std::error::Error>> {
    let policy = sandbox::Policy::parse(SANDBOX)?;
    // Before the card's key is made: nobody may read it out of this process, not even while it starts.
    sandbox::undumpable()?;
    let card = Card::new(control, sealing)?;
    policy.enter(&[])?;
    card.run()?;
    Ok(())
}
