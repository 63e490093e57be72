//! `azote-boot-bench`: how long a host takes from power to reset released, and to be attested.

use clap::Parser;
use redteam::{Arguments, end, power};
use std::process::ExitCode;

/// Starts of which the median is taken.
const RUNS: usize = 15;

fn main() -> ExitCode {
    let ask = Arguments::parse();
    end(power::run(&ask.programs(), RUNS, ask.json).map(|text| (text, true)))
}
