//! Guests under the hypervisor of this tree.

use crate::run::{Outcome, cargo, quietly, root, step};
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
    if matches!(what, Some(Guest::Linux)) {
        parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |at| eprintln!("    {at}"))
            .map_err(|e| e.to_string())?;
    }
    let name = if what.is_some() { "linux" } else { "check" };
    run.arg(name);
    if json { quietly(run.arg("--json")) } else { step("guest", &mut run) }
}
