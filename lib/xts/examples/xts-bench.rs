//! Prints the throughput of each kernel and its ratio to AWS-LC's, measured in one interleaved run.
//! `--json` for programs; `--quick` for a short run.
#![allow(clippy::print_stdout)]

use std::{process::ExitCode, time::Duration};
use xts::{
    Kernel,
    measure::{Case, measure},
};

fn main() -> ExitCode {
    let has = |flag: &str| std::env::args().skip(1).any(|argument| argument == flag);
    let (rounds, round) = if has("--quick") { (5, 5) } else { (31, 20) };
    match measure(rounds, Duration::from_millis(round)) {
        Ok(cases) => {
            print(&cases, has("--json"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn ratio(case: &Case, cases: &[Case]) -> f64 {
    cases
        .iter()
        .find(|other| {
            other.kernel == Kernel::AwsLc && other.unit == case.unit && other.encrypt == case.encrypt
        })
        .map_or(f64::NAN, |base| case.median / base.median)
}

fn print(cases: &[Case], json: bool) {
    if json {
        let rows: Vec<_> = cases
            .iter()
            .map(|case| {
                serde_json::json!({
                    "kernel": format!("{:?}", case.kernel), "unit": case.unit.size(),
                    "direction": if case.encrypt { "encrypt" } else { "decrypt" },
                    "median_gb_s": case.median, "best_gb_s": case.best, "ratio": ratio(case, cases),
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(rows));
        return;
    }
    println!(
        "{:<9} {:>5} {:<8} {:>12} {:>10} {:>10}",
        "kernel", "unit", "", "median GB/s", "best GB/s", "to AWS-LC"
    );
    for case in cases {
        println!(
            "{:<9} {:>5} {:<8} {:>12.2} {:>10.2} {:>10.2}",
            format!("{:?}", case.kernel),
            case.unit.size(),
            if case.encrypt { "encrypt" } else { "decrypt" },
            case.median,
            case.best,
            ratio(case, cases)
        );
    }
}
