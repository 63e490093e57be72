//! `azote-guest`: runs guests under the hypervisor beside it and prints what they found.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and for CI")]

use clap::{Parser, Subcommand};
use guest::{
    Error, linux,
    report::{Check, Verdict},
    scenario::{self, Programs},
};
use std::{path::PathBuf, process::ExitCode, time::Duration};

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(rows) => finish(&rows, arguments.json),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<Check>, Error> {
    let folder = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    };
    let programs = Programs(folder);
    let json = arguments.json;
    let mut print = |check: &Check| {
        if !json {
            line(check);
        }
    };
    match &arguments.what {
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
            let rows = match here {
                Some(folder) => {
                    let (kernel, root) = linux::files(folder);
                    linux::here(&programs, &kernel, &root, limit)?
                }
                None => linux::anywhere(&programs, limit)?,
            };
            rows.iter().for_each(print);
            Ok(rows)
        }
    }
}

/// One check. Programs read this form too: it is the guest's own.
fn line(check: &Check) {
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "FAIL",
        Verdict::Skipped => "skip",
    };
    println!("{} {verdict} {}", check.name, check.text);
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
