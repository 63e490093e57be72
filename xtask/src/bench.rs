//! Measurements. Each prints medians and a ratio against its peer, taken in the same run.

use crate::run::{Outcome, cargo, parts, step};
use clap::Subcommand;
use std::{path::PathBuf, process::Command, thread::sleep, time::Duration};

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
    /// A host's start, from power to reset released, stage by stage, and its attestation; lines and dependencies of each
    /// stage.
    Boot,
    /// The hypervisor: start, memory, compute, exits, size; beside QEMU and, if there is one, Firecracker.
    Hypervisor {
        /// A Firecracker program, to run the same guest.
        #[arg(long)]
        firecracker: Option<PathBuf>,
        /// Print one JSON document, and nothing else on standard output.
        #[arg(long)]
        json: bool,
    },
}

/// How long the main board's firmware takes to find that there is nothing to start. Until then its emulation takes one
/// of this machine's CPUs, which on a host is not the controller's.
const FIRMWARE: Duration = Duration::from_secs(30);

/// What each part of the door is measured with.
const DOOR: [(&str, &str); 5] = [
    ("policy decision", "decide-bench"),
    ("token issue and check", "token-bench"),
    ("host log append", "log-bench"),
    ("audit log append and proof", "audit-bench"),
    ("reconciliation", "reconcile-bench"),
];

/// Builds optimised programs and measures.
pub(crate) fn run(what: &Bench) -> Outcome {
    match what {
        Bench::Volume { args } => volume(args),
        Bench::Door { hosts } => door(hosts),
        Bench::Boot => boot(),
        Bench::Hypervisor { firecracker, json } => crate::guest::bench(firecracker.as_deref(), *json),
    }
}

fn boot() -> Outcome {
    parts()?;
    step("build", cargo().args(["build", "--release", "--workspace", "--exclude", "xtask", "--bins"]))?;
    println!("{:<18} {:>7} {:>14} {:>6} {:>6} {:>9}", "", "lines", "not forbidden", "own", "others", "KiB");
    for size in crate::sizes::sizes()? {
        let program = built().join(size.name);
        let bytes = std::fs::metadata(&program).map_err(|e| format!("{}: {e}", program.display()))?.len();
        let (name, lines, kib) = (size.name, size.lines, bytes / 1024);
        println!(
            "{name:<18} {lines:>7} {:>14} {:>6} {:>6} {kib:>9}",
            size.not_forbidden, size.own, size.foreign
        );
    }
    println!(
        "lines: of this project, without tests; not forbidden: in crates that may be unsafe; crates: own, others'"
    );
    step("starts", &mut Command::new(built().join("azote-boot-bench")))
}

fn built() -> PathBuf {
    crate::run::programs("release")
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
    // In one go: what is chosen by package is built with other features, and all of it again.
    let mut build = cargo();
    build.args(["build", "--release", "--workspace", "--exclude", "xtask", "--bins"]);
    for (_, example) in DOOR {
        build.args(["--example", example]);
    }
    step("build", &mut build)?;
    for (what, example) in DOOR {
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
    sleep(FIRMWARE);
    let measured = step("calls", Command::new(built().join("azote-knock")).arg("--state").arg(state.path()));
    step("stop the host", &mut azote("down"))?;
    measured
}
