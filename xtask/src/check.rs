//! The checks beside the tests: formatting, lints, dependencies.

use crate::run::{Outcome, cargo, root, step};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// The cargo-deny release that checks the dependencies.
const CARGO_DENY: &str = "0.20.2";

/// Runs every check.
pub(crate) fn run(advisories: bool) -> Outcome {
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    step("lints", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    boot_rom()?;
    crate::schemathesis::run(5)?;
    crate::documents::run()?;
    deny(advisories)
}

/// The boot ROM's program, which is a workspace of its own, is held to the same; and to the same dependencies, so that
/// they were looked at once.
fn boot_rom() -> Outcome {
    let (ours, its) = (root().join("Cargo.lock"), root().join("host/boot-rom/program"));
    let pinned = |path: &Path| -> Result<BTreeSet<String>, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let packages = text.split("[[package]]").skip(1).filter(|package| package.contains("checksum"));
        Ok(packages.map(|package| package.lines().take(3).collect()).collect())
    };
    let (ours, others) = (pinned(&ours)?, pinned(&its.join("Cargo.lock"))?);
    if let Some(other) = others.difference(&ours).next() {
        return Err(format!(
            "the boot ROM depends on {other}, the workspace does not: update its Cargo.lock"
        ));
    }
    // From its folder, where its own flags are.
    let run = |name: &str, words: &[&str]| {
        let target = root().join("target/boot-rom");
        println!("==> {name}");
        let status = cargo().args(words).current_dir(&its).env("CARGO_TARGET_DIR", target).status();
        let status = status.map_err(|e| format!("{name}: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})")) }
    };
    run("format of the boot ROM", &["fmt", "--check"])?;
    run("lints of the boot ROM", &["clippy", "--release", "--", "-D", "warnings"])
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
