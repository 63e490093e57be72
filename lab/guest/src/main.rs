//! `azote-guest`: runs guests under the hypervisor beside it and prints what they found.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and for CI")]

use clap::{Parser, Subcommand};
use guest::{
    Error, attestation,
    bench::{self, Row},
    facts, linux, passthrough,
    peer::Peer,
    pulse,
    report::{Check, Verdict},
    scenario::{self, Programs},
    tpm,
};
use parts::Parts;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Tests machines from the inside.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The folder of the programs under test; this program's own if not given.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Print one JSON document, and nothing else on standard output.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The self-checking guest, in machines of several shapes.
    Check,
    /// What the hypervisor costs, beside QEMU and, if given, Firecracker, in one run. Numbers mean something for
    /// optimised programs only.
    Bench {
        /// Firecracker, to stand beside it.
        #[arg(long)]
        firecracker: Option<PathBuf>,
    },
    /// Debian's cloud kernel with its root on a volume card: directly where the processor has VMX or SVM, else in an
    /// emulated machine that has.
    Linux {
        /// Here, with the kernel and the root image of this folder.
        #[arg(long)]
        here: Option<PathBuf>,
        /// Seconds until it is given up.
        #[arg(long, default_value_t = 400)]
        limit: u64,
    },
    /// The self-checking guest with a function of the host's hardware, in an emulated machine that has one.
    Passthrough {
        /// Here: in the emulated machine.
        #[arg(long)]
        here: bool,
        /// Seconds until it is given up.
        #[arg(long, default_value_t = 600)]
        limit: u64,
    },
    /// Debian's next kernel with the attestation card's function, on the main board and under the hypervisor; what it got
    /// signed is left for others to check.
    Attestation {
        /// The program that asks, in the guest.
        #[arg(long, required_unless_present = "here")]
        client: Option<PathBuf>,
        /// Where documents are left.
        #[arg(long, required_unless_present = "here")]
        documents: Option<PathBuf>,
        /// Here, under the hypervisor, with the kernel and the initial file system of this folder.
        #[arg(long)]
        here: Option<PathBuf>,
        /// Seconds until one of them is given up.
        #[arg(long, default_value_t = 400)]
        limit: u64,
    },
    /// In an emulated machine: says so if one of its processors stands still.
    #[command(hide = true)]
    Pulse,
    /// The TPM client against the kernel's TPM device, in emulated machines that have a TPM.
    Tpm {
        /// Seconds until one of them is given up.
        #[arg(long, default_value_t = 300)]
        limit: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.what {
        What::Bench { firecracker } => bench(&arguments, firecracker.as_deref()),
        _ => run(&arguments).map(|rows| finish(&rows, arguments.json)),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn programs(arguments: &Arguments) -> Result<Programs, Error> {
    Ok(Programs(match &arguments.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    }))
}

fn bench(arguments: &Arguments, firecracker: Option<&Path>) -> Result<ExitCode, Error> {
    let programs = programs(arguments)?;
    let mut rows = Vec::new();
    if let Some(why) = scenario::missing() {
        eprintln!("{why}: no guest is measured");
    } else {
        let mut peers = vec![Peer::Qemu(Box::new(Parts::locate(&parts::default_dir())?))];
        peers.extend(firecracker.map(|program| Peer::Firecracker(program.to_owned())));
        rows = bench::all(&programs, &peers, &mut |what| eprintln!("measuring {what}"))?;
    }
    rows.extend(facts::all(&programs, firecracker)?);
    if arguments.json {
        println!("{:#}", serde_json::json!({ "rows": rows }));
    } else {
        rows.iter().for_each(measured);
        if firecracker.is_none() {
            println!("Firecracker: not measured; `cargo xtask bench hypervisor --firecracker PROGRAM` does");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of the table.
fn measured(row: &Row) {
    let number =
        |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let ours = row.azote.map_or("not measured".to_owned(), |value| format!("{} {}", number(value), row.unit));
    let goal = row.goal.map_or(String::new(), |goal| format!(", goal {} or less", number(goal)));
    let peers: String =
        row.peers.iter().map(|(name, value)| format!(", {name} {}", number(*value))).collect();
    let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
    println!("{:<72} {ours}{peers}{goal}{note}", row.what);
}

fn run(arguments: &Arguments) -> Result<Vec<Check>, Error> {
    let programs = programs(arguments)?;
    let json = arguments.json;
    let mut print = |check: &Check| {
        if !json {
            line(check);
        }
    };
    match &arguments.what {
        What::Bench { .. } => Ok(Vec::new()),
        What::Check => match scenario::missing() {
            Some(why) => {
                let name = "machine".to_owned();
                let skipped =
                    Check { name, verdict: Verdict::Skipped, text: format!("{why}: no guest was run") };
                print(&skipped);
                Ok(vec![skipped])
            }
            None => scenario::all(&programs, &mut print),
        },
        What::Linux { here, limit } => {
            let limit = Duration::from_secs(*limit);
            if let Some(folder) = here {
                let (kernel, root) = linux::files(folder);
                let rows = linux::here(&programs, &kernel, &root, &[], limit)?;
                rows.iter().for_each(plain);
                return Ok(rows);
            }
            let rows = linux::anywhere(&programs, limit)?;
            rows.iter().for_each(print);
            Ok(rows)
        }
        What::Passthrough { here: true, .. } => passthrough::here(&programs, &mut plain),
        What::Passthrough { limit, .. } => {
            let rows = passthrough::nested(&programs, Duration::from_secs(*limit))?;
            rows.iter().for_each(print);
            Ok(rows)
        }
        What::Attestation { client, documents, here, limit } => {
            let limit = Duration::from_secs(*limit);
            let (Some(client), Some(documents)) = (client, documents) else {
                let told = attestation::here(&programs, here.as_deref().unwrap_or(Path::new("/")), limit)?;
                told.checks.iter().for_each(plain);
                told.lines().for_each(|line| println!("{line}"));
                return Ok(told.checks);
            };
            let mut rows = attestation::board(&programs, client, documents, limit)?;
            rows.extend(attestation::anywhere(&programs, client, documents, limit)?);
            rows.iter().for_each(print);
            Ok(rows)
        }
        What::Pulse => pulse::watch().map(|()| Vec::new()),
        What::Tpm { limit } => {
            let rows = tpm::nested(&programs, Duration::from_secs(*limit))?;
            rows.iter().for_each(print);
            Ok(rows)
        }
    }
}

fn word(check: &Check) -> &'static str {
    match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "FAIL",
        Verdict::Skipped => "skip",
    }
}

/// One check, for people.
fn line(check: &Check) {
    println!("{:<21} {:<4}  {}", check.name, word(check), check.text);
}

/// One check as guests print it: who started the emulated machine reads it.
fn plain(check: &Check) {
    println!("{} {} {}", check.name, word(check), check.text);
}

fn finish(rows: &[Check], json: bool) -> ExitCode {
    let count = |verdict| rows.iter().filter(|check| check.verdict == verdict).count();
    let [ok, failed, skipped] = [Verdict::Ok, Verdict::Failed, Verdict::Skipped].map(count);
    if json {
        let document = serde_json::json!({ "checks": rows, "ok": ok, "failed": failed, "skipped": skipped });
        println!("{document:#}");
    } else {
        println!("{ok} ok, {failed} failed, {skipped} skipped");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
