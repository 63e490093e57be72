//! Runs the proofs; `cargo xtask prove` gets the solvers and starts it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the lines are what it is for")]

use ::rights::{Rights, RightsError, Sources};
use clap::{Parser, Subcommand};
use proofs::{chip, kernel, model, rights, solver::Solver};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// Say what a proposed policy set allows beyond the present one, and what no longer. Fails if it allows more.
    Compare {
        /// The folder of the present one.
        present: PathBuf,
        /// The folder of the proposed one.
        proposed: PathBuf,
    },
}

fn solver(text: &str) -> Result<Solver, String> {
    let (name, program) = text.split_once('=').ok_or("want NAME=PROGRAM")?;
    Ok(Solver { name: name.to_owned(), program: program.into() })
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.solvers.len() < 2 {
        eprintln!(
            "error: give two releases of the solver, as --solver NAME=PROGRAM; `cargo xtask prove` does"
        );
        return ExitCode::from(2);
    }
    let done = match &args.task {
        Task::Prove { name } => Ok(prove(&args, name)),
        Task::Compare { present, proposed } => compare(&args, present, proposed),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that has `name` in its name holds, and something has.
fn prove(args: &Args, name: &str) -> bool {
    let solvers = &args.solvers;
    let proofs = rights::proofs(solvers).into_iter().chain(kernel::proofs(solvers)).chain(model::proofs());
    let proofs = proofs.chain(chip::proofs(solvers));
    let (mut some, mut holds) = (false, true);
    for proof in proofs.filter(|proof| proof.name.contains(name)) {
        let line = proof.prove();
        (some, holds) = (true, holds & line.result.is_ok());
        if args.json {
            println!("{}", line.json());
        } else {
            println!("{line}");
        }
    }
    some & holds
}

/// Whether the proposed set allows nothing new.
fn compare(args: &Args, present: &Path, proposed: &Path) -> Result<bool, String> {
    let read = |folder: &Path, parse: fn(&Sources) -> Result<Rights, RightsError>| {
        let sources = Sources::read(folder).and_then(|sources| parse(&sources));
        sources.map_err(|e| format!("{}: {e}", folder.display()))
    };
    let present = read(present, Rights::parse_other_release)?;
    let comparison = rights::compare::compare(&args.solvers, &present, &read(proposed, Rights::parse)?)?;
    if args.json {
        println!("{}", comparison.json());
    } else {
        println!("{comparison}");
    }
    Ok(!comparison.allows_more())
}
