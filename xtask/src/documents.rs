//! Documents by which instances prove what they are, made by the real card and checked by our command and by others'
//! code: cbor2 and cryptography from PyPI, and crates for Nitro Enclaves' documents.

use crate::{
    python,
    run::{Outcome, cargo, programs, quietly, root, step, workspace},
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
            .args(["test", "--quiet", "--workspace", "--test", "documents"])
            .args(["--", "--ignored"])
            .env("AZOTE_DOCUMENTS", &folder),
    )?;
    workspace()?;
    let (azote, root) = (programs("debug").join("azote"), folder.join("root.pem"));
    for (name, nonce) in [("plain.cose", None), ("full.cose", Some("03".repeat(512)))] {
        let mut verify = Command::new(&azote);
        verify.args(["instance", "verify"]).arg(folder.join(name)).arg("--root").arg(&root);
        verify.args(nonce.iter().flat_map(|nonce| ["--nonce", nonce]));
        step("azote instance verify", &mut verify)?;
    }
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
    Ok(programs("debug").join(program))
}
