//! `azote-hypervisor`: one instance. Standard input is the controller's `SOCK_SEQPACKET` socket; there are no
//! arguments.

use hypervisor::control::Control;
use rustix::net::{SocketType, sockopt};
use std::{os::fd::AsFd, process::ExitCode};
use wire::Link;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let input = std::io::stdin();
    if std::env::args_os().len() > 1 || sockopt::socket_type(&input) != Ok(SocketType::SEQPACKET) {
        tracing::error!(
            "standard input is no SOCK_SEQPACKET socket, or there are arguments: let the controller start this"
        );
        return ExitCode::from(2);
    }
    match serve(&input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the hypervisor stops");
            ExitCode::FAILURE
        }
    }
}

fn serve(input: &impl AsFd) -> Result<(), Box<dyn std::error::Error>> {
    sandbox::undumpable()?;
    let link = Link::new(input.as_fd().try_clone_to_owned()?);
    Control::new(link, Box::new(|| Ok(()))).run()?;
    Ok(())
}
