//! `azote-redteam`: plays abuse scenarios against a real installation; each must be refused, and raise an alarm.

use clap::Parser;
use redteam::{Arguments, end, play};
use std::process::ExitCode;

fn main() -> ExitCode {
    let ask = Arguments::parse();
    end(play::run(&ask.programs(), ask.name.as_deref(), ask.keep, ask.json))
}
