//! Guests under the hypervisor of this tree.

use crate::run::{Outcome, cargo, parts, quietly, root, step};
use clap::Subcommand;
use std::process::Command;

/// Which guest.
#[derive(Subcommand)]
pub(crate) enum Guest {
    /// Debian's cloud kernel, unmodified, its root on a volume card: directly on VMX or SVM, elsewhere in an emulated
    /// machine with SVM.
    Linux,
}

/// Builds what is needed and runs a guest: the self-checking one, if none is named.
pub(crate) fn run(what: Option<&Guest>, json: bool) -> Outcome {
    let mut build = cargo();
    build.args(["build", "--quiet", "-p", "hypervisor", "-p", "volume-card", "-p", "guest", "--bins"]);
    quietly(&mut build)?;
    let mut run = Command::new(root().join("target/debug/azote-guest"));
    let name = match what {
        None => "check",
        Some(Guest::Linux) if json => "linux",
        Some(Guest::Linux) => {
            parts()?;
            "linux"
        }
    };
    run.arg(name);
    if json { quietly(run.arg("--json")) } else { step("guest", &mut run) }
}
