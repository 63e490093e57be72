//! The proofs: gets two releases of the solver and starts `azote-proofs`.

use crate::run::{Outcome, programs, quietly, root, step, workspace};
use std::{path::PathBuf, process::Command};

/// What to prove.
#[derive(clap::Args)]
pub(crate) struct Prove {
    /// One JSON object for each line, and nothing else on standard output.
    #[arg(long)]
    json: bool,
    /// Prove nothing, but compare the policies of this release with those of a folder: what is newly allowed, what no
    /// longer. Fails if something is newly allowed.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Only the proofs with this in their names.
    #[arg(default_value = "")]
    name: String,
}

impl Prove {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self { json: false, against: None, name: String::new() }
    }
}

/// Proves, or compares.
pub(crate) fn run(args: &Prove) -> Outcome {
    let shim = root().join("proofs/cvc5-shim.py");
    let solvers = parts::solvers(&parts::default_dir(), &shim, &mut |at| eprintln!("    {at}"))
        .map_err(|e| e.to_string())?;
    workspace()?;
    let mut proofs = Command::new(programs("debug").join("azote-proofs"));
    match &args.against {
        Some(present) => proofs.arg("compare").args([present, &root().join("policies")]),
        None => proofs.args(["prove", &args.name]),
    };
    for (name, program) in [("debian", &solvers.debian), ("pypi", &solvers.pypi)] {
        proofs.arg("--solver").arg(format!("{name}={}", program.display()));
    }
    if args.json {
        return quietly(proofs.arg("--json"));
    }
    step("proofs", &mut proofs)
}
