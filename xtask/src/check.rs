//! The checks beside the tests: formatting, lints, dependencies.

use crate::run::{Outcome, cargo, root, step};
use std::process::Command;

/// The cargo-deny release that checks the dependencies.
const CARGO_DENY: &str = "0.20.2";

/// Runs every check.
pub(crate) fn run(advisories: bool) -> Outcome {
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    step("lints", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    crate::schemathesis::run(5)?;
    crate::documents::run()?;
    deny(advisories)
}

/// Licences, sources and bans; known vulnerabilities where their database can be reached.
fn deny(advisories: bool) -> Outcome {
    let tools = root().join("target/tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.exists() {
        step(
            "install cargo-deny",
            cargo()
                .args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug", "--root"])
                .arg(&tools)
                .env("CARGO_TARGET_DIR", root().join("target/tools/build")),
        )?;
    }
    step("dependencies", Command::new(&deny).args(["check", "bans", "licenses", "sources"]))?;
    if advisories {
        return step("advisories", Command::new(&deny).args(["check", "advisories"]));
    }
    println!("==> advisories: not checked; `cargo xtask check --advisories` does, online");
    Ok(())
}
