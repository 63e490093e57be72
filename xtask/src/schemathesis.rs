//! The API document against a running host, by schemathesis (PyPI) in an environment of its own.

use crate::{
    python,
    run::{Outcome, cargo, step, workspace},
};
use std::path::Path;

const WANTED: &str = "host/controller/tests/schemathesis/requirements.txt";

/// Runs it with so many generated requests for each operation, beside those that the document's bounds give.
pub(crate) fn run(examples: u32) -> Outcome {
    let programs = python::environment("schemathesis", Path::new(WANTED))?;
    workspace()?;
    step(
        "API document against a running host",
        cargo()
            .args(["test", "--workspace", "--test", "host", "schemathesis"])
            .args(["--", "--ignored", "--nocapture"])
            .env("RUST_LOG", "warn")
            .env("AZOTE_SCHEMATHESIS", programs.join("schemathesis"))
            .env("AZOTE_EXAMPLES", examples.to_string()),
    )
}
