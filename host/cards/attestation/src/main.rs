//! `azote-attestation-card`: serves the controller at the other end of its standard input.
#![forbid(unsafe_code)]

use attestation_card::{Card, SANDBOX};
use clap::Parser;
use rustix::net::{SocketType, sockopt};
use std::{
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};

/// Gives each instance a function that signs what it is. Started by the controller, whose connected SOCK_SEQPACKET
/// socket is standard input.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    let level = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).init();
    if sockopt::socket_type(std::io::stdin()) != Ok(SocketType::SEQPACKET) {
        tracing::error!("standard input is no SOCK_SEQPACKET socket: let the controller start the card");
        return ExitCode::from(2);
    }
    match std::io::stdin().as_fd().try_clone_to_owned().map_err(Into::into).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the card stops");
            ExitCode::FAILURE
        }
    }
}

fn serve(control: OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let policy = sandbox::Policy::parse(SANDBOX)?;
    // Before the card's key is made: nobody may read it out of this process, not even while it starts.
    sandbox::undumpable()?;
    let card = Card::new(control)?;
    policy.enter(&[])?;
    card.run()?;
    Ok(())
}
