//! `azote-exposure`: what the processes of a host expose, and what of it no sandbox file names.

use clap::{Parser, ValueHint};
use exposure::{Allowances, Expectations, Report, SANDBOXES, STAND_INS, Scope, judge, survey};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Lists for each process of a host its listening sockets, executable mappings, capabilities, open files, terminals
/// and what it could start, and fails on anything that its sandbox file does not name.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 nothing is exposed beyond what is named, 1 something is, 2 wrong usage."
)]
struct Arguments {
    /// The folder of the installation: its processes are looked at, and all that they have started.
    #[arg(long, value_hint = ValueHint::DirPath)]
    installation: PathBuf,
    /// Look at every process of the machine.
    #[arg(long)]
    all: bool,
    /// This is a host: nothing that stands in for hardware is expected.
    #[arg(long)]
    host: bool,
    /// Tell what could not be read, and do not fail for it.
    #[arg(long)]
    allow_unread: bool,
    /// One JSON document for programs.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok((text, holds)) => {
            let said = writeln!(io::stdout(), "{text}");
            if said.is_ok() && holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(String, bool), Box<dyn std::error::Error>> {
    let expected = Expectations::parse(SANDBOXES, if arguments.host { "" } else { STAND_INS })?;
    let scope = if arguments.all { Scope::Machine } else { Scope::Installation };
    let survey = survey(&std::path::absolute(&arguments.installation)?, scope)?;
    let findings = judge(&survey, &expected, Allowances { unread: arguments.allow_unread });
    let report = Report::new(survey, findings);
    let text = if arguments.json { serde_json::to_string_pretty(&report)? } else { report.text(&expected) };
    Ok((text, report.holds))
}
