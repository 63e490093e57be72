//! Runs the proofs; `cargo xtask prove` gets the solvers and starts it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

use clap::{Parser, Subcommand};
use proofs::{kernel, rights, solver::Solver};
use std::process::ExitCode;

/// Proves what the specification promises of rights, decisions, tokens and quotas.
#[derive(Parser)]
#[command(name = "azote-proofs")]
struct Args {
    #[command(subcommand)]
    task: Task,
    /// A release of the solver, as NAME=PROGRAM. Give two: they must agree.
    #[arg(long = "solver", global = true, value_parser = solver)]
    solvers: Vec<Solver>,
    /// One JSON object for each line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Prove everything.
    Prove {
        /// Only lines whose name has this in it.
        #[arg(default_value = "")]
        name: String,
    },
}

fn solver(text: &str) -> Result<Solver, String> {
    let (name, program) = text.split_once('=').ok_or("want NAME=PROGRAM")?;
    Ok(Solver { name: name.to_owned(), program: program.into() })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Task::Prove { name } = &args.task;
    let mut holds = true;
    let proofs = rights::proofs(&args.solvers).into_iter().chain(kernel::proofs(&args.solvers));
    for proof in proofs.filter(|proof| proof.name.contains(name.as_str())) {
        let line = proof.prove();
        holds &= line.result.is_ok();
        if args.json {
            println!("{}", line.json());
        } else {
            println!("{line}");
        }
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
