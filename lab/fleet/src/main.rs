//! Simulates a fleet: many hosts against one token service and one audit service, to see how their cost grows.
//!
//! Real are the two services (rights, quotas and journal in their store, signatures; Merkle log on disk,
//! reconciliation, monitor), their JSON calls, each caller's proof, and what each host checks, records and signs.
//! Left out are TLS and the hosts' own disks: a host here is a key and a chain of records. Not shipped; it stands
//! on no trust boundary.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod cloud;
mod host;
mod round;

use clap::Parser;
use serde::Serialize;
use std::{error::Error, process::ExitCode};

/// Plays one call on each host of growing fleets, and prints what it costs the token and the audit service.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Sizes of the fleets.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    hosts: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What one fleet cost.
#[derive(Debug, Serialize)]
struct Cost {
    hosts: u32,
    /// Tokens that were issued: one for the call, one for the audit service to read that host's log.
    tokens: u32,
    /// Time of the token service for one token: decision, quota, journal, signature, durable.
    token_us: f64,
    /// Time of one host to check its call.
    check_us: f64,
    /// Entries that the audit log took.
    entries: u64,
    /// Time of the audit service for one entry: verify, reconcile, watch, append, durable.
    entry_us: f64,
    /// From the first token to the last entry, in seconds.
    round_s: f64,
    /// Bytes of the token service's store and of the audit log per host.
    store_bytes_per_host: u64,
    log_bytes_per_host: u64,
    /// Largest resident size of the process so far, in MiB.
    resident_mib: u64,
    /// Calls and tokens without their other side, and alarms that tell of more than the load: none are expected.
    unmatched: usize,
    alarms: Vec<String>,
}

fn main() -> ExitCode {
    match play(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("records without their other side, or alarms, in a fleet where nothing is wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &Args) -> Result<bool, Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut costs: Vec<Cost> = Vec::new();
    if !args.json {
        println!(
            "hosts    tokens  µs/token  µs/check  entries   µs/entry  round s  store B/host  log B/host  RSS MiB  cost per host"
        );
    }
    for hosts in &args.hosts {
        let cost = runtime.block_on(round::play(*hosts))?;
        if !args.json {
            println!("{}", line(&cost, costs.first().unwrap_or(&cost)));
        }
        costs.push(cost);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&costs)?);
    }
    Ok(costs.iter().all(|cost| cost.unmatched == 0 && cost.alarms.is_empty()))
}

fn line(cost: &Cost, first: &Cost) -> String {
    let per_host = |cost: &Cost| cost.round_s / f64::from(cost.hosts);
    let Cost { hosts, tokens, token_us, check_us, entries, entry_us, round_s, .. } = cost;
    let (store, log) = (cost.store_bytes_per_host, cost.log_bytes_per_host);
    let mut line = format!(
        "{hosts:<8} {tokens:<7} {token_us:<9.0} {check_us:<9.0} {entries:<9} {entry_us:<9.0} {round_s:<8.2} {store:<13} {log:<11} {:<8} {:.2} of the first",
        cost.resident_mib,
        per_host(cost) / per_host(first),
    );
    if cost.unmatched > 0 || !cost.alarms.is_empty() {
        line.push_str(&format!("  unmatched {} alarms {:?}", cost.unmatched, cost.alarms));
    }
    line
}
