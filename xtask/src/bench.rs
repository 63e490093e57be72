//! Measurements. Each prints medians and a ratio against its peer, taken in the same run.

use crate::run::{Outcome, cargo, parts, root, step};
use clap::Subcommand;
use std::{path::PathBuf, process::Command};

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The volume card beside plain io_uring on the same file, and XTS beside aws-lc.
    Volume {
        /// Handed to the benchmark (try `--help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The operators' door: calls, decisions, tokens, logs, reconciliation, alarms, and a fleet of 10,000 hosts.
    Door {
        /// Sizes of the simulated fleets.
        #[arg(long, default_value = "10,100,1000,10000")]
        hosts: String,
    },
}

/// What each part of the door is measured with: (what, package, example).
const DOOR: [(&str, &str, &str); 5] = [
    ("policy decision", "rights", "decide-bench"),
    ("token issue and check", "tokens", "token-bench"),
    ("host log append", "controller", "log-bench"),
    ("audit log append and proof", "audit", "audit-bench"),
    ("reconciliation", "audit", "reconcile-bench"),
];

/// Builds optimised programs and measures.
pub(crate) fn run(what: &Bench) -> Outcome {
    match what {
        Bench::Volume { args } => volume(args),
        Bench::Door { hosts } => door(hosts),
    }
}

fn built() -> PathBuf {
    root().join("target/release")
}

fn volume(args: &[String]) -> Outcome {
    let packages = ["-p", "xts", "-p", "volume-card", "--bins", "--examples"];
    step("build", cargo().args(["build", "--release"]).args(packages))?;
    let built = built();
    step("volume", Command::new(built.join("examples/volume-bench")).args(args))?;
    step("XTS", &mut Command::new(built.join("examples/xts-bench")))
}

fn door(hosts: &str) -> Outcome {
    parts()?;
    step("build", cargo().args(["build", "--release", "--workspace", "--exclude", "xtask", "--bins"]))?;
    let mut examples = cargo();
    examples.args(["build", "--release"]);
    for (_, package, example) in DOOR {
        examples.args(["-p", package, "--example", example]);
    }
    step("build benchmarks", &mut examples)?;
    for (what, _, example) in DOOR {
        step(what, &mut Command::new(built().join("examples").join(example)))?;
    }
    calls()?;
    // Abuse with other people's tokens and keys: rules that wait for nothing.
    step("alarm delay", Command::new(built().join("azote-redteam")).arg("another"))?;
    step("fleet", Command::new(built().join("azote-fleet")).args(["--hosts", hosts]))
}

/// Calls at the door of a host that runs.
fn calls() -> Outcome {
    let state = tempfile::Builder::new().prefix("azote-").tempdir().map_err(|error| error.to_string())?;
    let azote = |verb: &str| {
        let mut command = Command::new(built().join("azote"));
        command.arg("--state").arg(state.path()).arg(verb);
        command
    };
    step("start a host", &mut azote("up"))?;
    let measured = step("calls", Command::new(built().join("azote-knock")).arg("--state").arg(state.path()));
    step("stop the host", &mut azote("down"))?;
    measured
}
