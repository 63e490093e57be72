//! The API document against a running host, by schemathesis (PyPI) in an environment of its own.

use crate::run::{Outcome, cargo, root, step};
use std::{fs, process::Command};

/// Runs it with so many generated requests for each operation, beside those that the document's bounds give.
pub(crate) fn run(examples: u32) -> Outcome {
    let home = root().join("target/tools/schemathesis");
    let wanted = root().join("host/controller/tests/schemathesis/requirements.txt");
    let installed = home.join("installed.txt");
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if read(&installed) != read(&wanted) {
        step("python environment", Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        step(
            "install schemathesis",
            Command::new(home.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&wanted),
        )?;
        fs::copy(&wanted, &installed).map_err(|error| format!("{}: {error}", installed.display()))?;
    }
    step("programs", cargo().args(["build", "--package", "security-chip", "--package", "volume-card"]))?;
    step(
        "API document against a running host",
        cargo()
            .args(["test", "--package", "controller", "--test", "host", "schemathesis"])
            .args(["--", "--ignored", "--nocapture"])
            .env("RUST_LOG", "warn")
            .env("AZOTE_SCHEMATHESIS", home.join("bin/schemathesis"))
            .env("AZOTE_EXAMPLES", examples.to_string()),
    )
}
