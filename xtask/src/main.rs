//! What a person or a machine does with this repository: run the demo, test, fuzz, measure, check. It
//! starts cargo and the built programs and adds no logic of its own. Not shipped; no trust boundary.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod check;
mod documents;
mod fuzz;
mod guest;
mod prove;
mod python;
mod run;
mod schemathesis;
mod sizes;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, run, test, fuzz and measure Azote. `make` is a front for this.
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything, get what the lab needs, and run the main job end to end.
    Demo {
        /// Handed to `azote demo` (try `--json`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build everything, get what the lab needs, and run every test and a short fuzz of every parser.
    Test {
        /// Seconds for each fuzz target; 0 leaves fuzzing out.
        #[arg(long, default_value_t = 10)]
        fuzz_seconds: u32,
        /// Handed to `cargo test`, such as a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz one target, or all of them, from the corpus in `fuzz/corpus`.
    Fuzz {
        /// A target; all of them without it.
        target: Option<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure, beside the named peer, in one run.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Generated requests, good and bad, to a running host: no failure, no answer that the API document does not say.
    Schemathesis {
        /// Requests for each operation, beside those that the document's bounds give.
        #[arg(long, default_value_t = 100)]
        examples: u32,
    },
    /// Documents by which instances prove what they are, checked by others' code: accepted, and refused with any byte
    /// changed.
    Documents,
    /// Formatting, lints, licences and sources of dependencies.
    Check {
        /// Also look for known vulnerabilities, with a database that is fetched from outside the registries.
        #[arg(long)]
        advisories: bool,
    },
    /// Prove what the specification promises of rights, decisions, tokens and quotas: one line for each proof. Fails
    /// if one does not hold, or does not find what was planted for it.
    Prove(prove::Prove),
    /// Run the self-checking guest under the hypervisor on this machine's `/dev/kvm` and print its table; or another
    /// guest. Fails if a check does.
    Guest {
        /// Print one JSON document, and nothing else on standard output.
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        what: Option<guest::Guest>,
    },
    /// Play the abuse scenarios against a whole installation: for each, with which code it was refused, and after how
    /// long the alarm came. Fails if one was not refused or raised no alarm.
    Redteam {
        /// Print one JSON document, and nothing else on standard output.
        #[arg(long)]
        json: bool,
        /// Only the scenarios with this in their names.
        name: Option<String>,
    },
    /// Change each thing that a host starts from, a byte or a file at a time, and start it: what was changed, which stage
    /// refused, with which code. Fails if a change was not refused as documented, or if anything started.
    Tamper {
        /// Print one JSON document, and nothing else on standard output.
        #[arg(long)]
        json: bool,
        /// Only the changes with this in their names.
        name: Option<String>,
    },
    /// Everything that CI runs: tests, checks, proofs, abuse, and Linux under the hypervisor.
    Ci,
    /// Get what the lab is built from (QEMU, firmware, kernel, software TPM) into target/lab.
    Parts,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Demo { args } => run::demo(&args),
        Task::Test { fuzz_seconds, args } => run::test(fuzz_seconds, &args),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Bench { what } => bench::run(&what),
        Task::Schemathesis { examples } => schemathesis::run(examples),
        Task::Documents => documents::run(),
        Task::Check { advisories } => check::run(advisories),
        Task::Prove(what) => prove::run(&what),
        Task::Guest { json, what } => guest::run(what.as_ref(), json),
        Task::Redteam { json, name } => run::redteam(json, name.as_deref()),
        Task::Tamper { json, name } => run::tamper(json, name.as_deref()),
        Task::Ci => run::test(10, &[])
            .and_then(|()| check::run(false))
            .and_then(|()| prove::run(&prove::Prove::all()))
            .and_then(|()| run::redteam(false, None))
            .and_then(|()| run::tamper(false, None))
            .and_then(|()| guest::run(Some(&guest::Guest::Linux), false))
            .and_then(|()| guest::run(Some(&guest::Guest::Passthrough), false))
            .and_then(|()| guest::run(Some(&guest::Guest::Attestation), false)),
        Task::Parts => run::parts(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
