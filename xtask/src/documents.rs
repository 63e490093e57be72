//! Documents by which instances prove what they are, made by the real card and checked by others' code: cbor2 and
//! cryptography from PyPI, and crates for Nitro Enclaves' documents.

use crate::{
    python,
    run::{Outcome, cargo, quietly, root, step},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const CHECKERS: &str = "host/cards/attestation/checkers";

/// Makes documents and has them checked, and each again with every byte changed.
pub(crate) fn run() -> Outcome {
    let folder = folder("documents")?;
    step(
        "documents of the attestation card",
        cargo()
            .args(["test", "--quiet", "--package", "attestation-card", "--test", "documents"])
            .args(["--", "--ignored"])
            .env("AZOTE_DOCUMENTS", &folder),
    )?;
    check(&folder)
}

/// A folder below `target`, as an absolute path.
pub(crate) fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = root().join("target").join(name);
    let made = fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
    made.map_err(|error| format!("{}: {error}", folder.display()))
}

/// Has the documents in a folder checked.
pub(crate) fn check(folder: &Path) -> Outcome {
    let checkers = Path::new(CHECKERS);
    let programs = python::environment("documents", &checkers.join("requirements.txt"))?;
    let check = root().join(checkers).join("check.py");
    step("cbor2 and cryptography", Command::new(programs.join("python")).arg(check).arg(folder))?;
    let mut checker = Command::new(build("document-checkers")?);
    step("nsm-nitro-enclave-utils", checker.arg(folder))
}

/// Builds a program of the checkers, which have their own dependencies.
pub(crate) fn build(program: &str) -> Result<PathBuf, String> {
    let target = folder(".")?;
    quietly(
        cargo()
            .args(["build", "--quiet", "--locked", "--bin", program, "--manifest-path"])
            .arg(root().join(CHECKERS).join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", &target),
    )?;
    Ok(target.join("debug").join(program))
}
