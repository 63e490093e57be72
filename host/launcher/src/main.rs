//! `azote-launcher`: starts hypervisors. Standard input is the controller's `SOCK_SEQPACKET` socket, standard output
//! the hypervisor's image in sealed memory. There are no arguments; `--inside` is how it starts itself in its
//! namespaces.

use launcher::{SANDBOX, StageError, inside, outside, policy};
use std::process::ExitCode;

fn main() -> ExitCode {
    let level = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let ended = |policy| match arguments.as_slice() {
        [] => outside(policy),
        [stage] if stage == "--inside" => inside(&policy),
        _ => Err(StageError::Usage),
    };
    match policy(SANDBOX).map_err(StageError::from).and_then(ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the launcher stops");
            ExitCode::from(error.exit_status())
        }
    }
}
