//! Measurements. Each prints medians and a ratio against its peer, taken in the same run.

use crate::run::{Outcome, cargo, root, step};
use clap::Subcommand;
use std::process::Command;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The volume card beside plain io_uring on the same file, and XTS beside aws-lc.
    Volume {
        /// Handed to the benchmark (try `--help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Builds optimised programs and measures.
pub(crate) fn run(what: &Bench) -> Outcome {
    match what {
        Bench::Volume { args } => {
            step(
                "build",
                cargo().args([
                    "build",
                    "--release",
                    "-p",
                    "xts",
                    "-p",
                    "volume-card",
                    "--bins",
                    "--examples",
                ]),
            )?;
            let built = root().join("target/release");
            step("volume", Command::new(built.join("examples/volume-bench")).args(args))?;
            step("XTS", &mut Command::new(built.join("examples/xts-bench")))
        }
    }
}
