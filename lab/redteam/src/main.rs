//! The red team: starts a whole installation, plays abuse of it, and checks for each scenario that it was refused
//! with the right code and that the right alarm reached a webhook in time. It runs on a developer's machine or in
//! CI, never beside tenants. It stands where attackers stand: it has their tokens, keys, files and sockets, and no
//! way in that they would not have.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod crew;
mod inbox;
mod play;
mod rack;
mod scenarios;
mod stage;

use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// Why a run cannot go on, for people.
pub(crate) type Outcome<T> = Result<T, String>;

/// Plays abuse scenarios against a real installation; each must be refused, and raise an alarm.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Leave the installation running in its folder.
    #[arg(long)]
    keep: bool,
    /// Folder with `azote` and the other programs; this program's own without it.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only scenarios whose name contains this.
    name: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let here = std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
    let programs = arguments.programs.or(here).unwrap_or_default();
    let report = play::run(&programs, arguments.name.as_deref(), arguments.keep, arguments.json);
    match report {
        Ok(report) => {
            println!("{}", if arguments.json { report.json() } else { report.summary() });
            if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
