//! `azote-hypervisor`: one instance. Standard input is the controller's `SOCK_SEQPACKET` socket; there are no
//! arguments.

use hypervisor::{
    confinement::{SANDBOX, serve},
    vm,
};
use rustix::net::{SocketType, sockopt};
use std::{os::fd::AsFd, process::ExitCode};

fn main() -> ExitCode {
    // Whoever takes the lines knows the time; to ask for it is a system call on some hosts.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
    let input = std::io::stdin();
    if std::env::args_os().len() > 1 || sockopt::socket_type(&input) != Ok(SocketType::SEQPACKET) {
        tracing::error!(
            "standard input is no SOCK_SEQPACKET socket, or there are arguments: let the controller start this"
        );
        return ExitCode::from(2);
    }
    let status = run(&input).inspect_err(|error| tracing::error!(%error, "the hypervisor stops"));
    vm::exit(status.is_err().into())
}

fn run(input: &impl AsFd) -> Result<(), Box<dyn std::error::Error>> {
    let policy = sandbox::Policy::parse(SANDBOX)?;
    serve(input.as_fd().try_clone_to_owned()?, policy)
}
