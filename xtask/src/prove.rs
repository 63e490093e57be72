//! The proofs: gets two releases of the solver and starts `azote-proofs`.

use crate::run::{Outcome, cargo, root, step};
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
    let built = cargo().args(["build", "--quiet", "-p", "proofs"]).current_dir(root()).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("the proofs could not be built".to_owned());
    }
    let mut proofs = Command::new(root().join("target/debug/azote-proofs"));
    match &args.against {
        Some(present) => proofs.arg("compare").args([present, &root().join("policies")]),
        None => proofs.args(["prove", &args.name]),
    };
    for (name, program) in [("debian", &solvers.debian), ("pypi", &solvers.pypi)] {
        proofs.arg("--solver").arg(format!("{name}={}", program.display()));
    }
    if args.json {
        let status = proofs.arg("--json").status().map_err(|e| format!("azote-proofs: {e}"))?;
        return if status.success() { Ok(()) } else { Err("not everything holds".to_owned()) };
    }
    step("proofs", &mut proofs)
}
