//! The command, as a program runs it.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "helpers of tests, not all used by each")]

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

pub(crate) fn azote(state: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_azote"))
        .arg("--json")
        .arg("--state")
        .arg(state)
        .args(words)
        .output()
        .unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{e}: {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

pub(crate) fn code(output: &Output) -> String {
    json(output)["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Stops what a failing test leaves running.
pub(crate) struct Down<'a>(pub(crate) &'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        azote(self.0, &["down"]);
    }
}
