//! Documents by which instances prove what they are, made by the real card and checked by others' code: cbor2 and
//! cryptography from PyPI, and crates for Nitro Enclaves' documents.

use crate::{
    python,
    run::{Outcome, cargo, root, step},
};
use std::{fs, path::Path, process::Command};

const CHECKERS: &str = "host/cards/attestation/checkers";

/// Makes documents and has them checked, and each again with every byte changed.
pub(crate) fn run() -> Outcome {
    let checkers = Path::new(CHECKERS);
    let programs = python::environment("documents", &checkers.join("requirements.txt"))?;
    let folder = root().join("target/documents");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    step(
        "documents of the attestation card",
        cargo()
            .args(["test", "--quiet", "--package", "attestation-card", "--test", "documents"])
            .args(["--", "--ignored"])
            .env("AZOTE_DOCUMENTS", &folder),
    )?;
    let check = root().join(checkers).join("check.py");
    step("cbor2 and cryptography", Command::new(programs.join("python")).arg(check).arg(&folder))?;
    let manifest = root().join(checkers).join("Cargo.toml");
    step(
        "nsm-nitro-enclave-utils",
        cargo()
            .args(["run", "--quiet", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--")
            .arg(&folder)
            .env("CARGO_TARGET_DIR", root().join("target")),
    )
}
