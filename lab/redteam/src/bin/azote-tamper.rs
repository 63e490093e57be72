//! `azote-tamper`: changes a byte in each thing that a host starts from; each must be refused, and nothing may start.

use clap::Parser;
use redteam::{Arguments, end, tamper};
use std::process::ExitCode;

fn main() -> ExitCode {
    let ask = Arguments::parse();
    end(tamper::run(&ask.programs(), ask.name.as_deref(), ask.keep, ask.json))
}
