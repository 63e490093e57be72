//! The red team: starts a whole installation, plays abuse of it, and checks for each scenario that it was refused
//! with the right code and that the right alarm reached a webhook in time. And it changes single bytes of what a host
//! starts from, and checks that each is refused by the stage that should, and that nothing starts.
//!
//! It runs on a developer's machine or in CI, never beside tenants. It stands where attackers stand: it has their
//! tokens, keys, files and sockets, and no way in that they would not have.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod crew;
mod inbox;
pub mod play;
pub mod power;
mod rack;
mod scenarios;
mod stage;
pub mod tamper;

use std::{path::PathBuf, process::ExitCode};

/// Why a run cannot go on, for people.
pub type Outcome<T> = Result<T, String>;

/// How a run is asked for.
#[derive(clap::Parser)]
#[command(version)]
pub struct Arguments {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Leave the installation in its folder.
    #[arg(long)]
    pub keep: bool,
    /// Folder with `azote` and the other programs; this program's own without it.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only those whose name contains this.
    pub name: Option<String>,
}

impl Arguments {
    /// Where the programs are.
    pub fn programs(&self) -> PathBuf {
        let here = || std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
        self.programs.clone().or_else(here).unwrap_or_default()
    }
}

/// Prints what came of a run: `text`, and whether all is as it should be.
pub fn end(run: Outcome<(String, bool)>) -> ExitCode {
    match run {
        Ok((text, held)) => {
            println!("{text}");
            if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
