//! Reconciliation of many calls: each told by its caller and recorded by its host, in shuffled order, some by one side
//! only. `reconcile-bench [RECORDS]`; without a number, 1,000,000 records.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use audit::{
    entry::Attempt,
    reconcile::{GRACE, Reconciler},
};
use host_api::LogRecord;
use ids::HostId;
use std::time::Instant;

/// One call in so many is on one side only.
const GAP: usize = 1000;
/// So many calls are under way at a time.
const UNDER_WAY: usize = 4096;

fn main() {
    let records: usize = std::env::args().nth(1).map_or(1_000_000, |number| number.parse().unwrap());
    let calls = records / 2;
    let host = HostId::from_random(1);
    let (mut attempts, mut recorded) = (Vec::with_capacity(calls), Vec::with_capacity(calls));
    for n in 0..calls {
        let request = format!("{n:032x}");
        attempts.push(attempt(&request, &host));
        recorded.push(record(&request));
    }
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.issued(0, &issued(&host));
    let (mut peak, start) = (0, Instant::now());
    for first in (0..calls).step_by(UNDER_WAY) {
        let now = first as u64;
        for (n, attempt) in attempts.iter().enumerate().skip(first).take(UNDER_WAY) {
            if n % GAP != 1 {
                assert!(reconciler.attempt(now, attempt).is_none());
            }
        }
        // Hosts' records come in another order than callers told of them.
        for n in (first..(first + UNDER_WAY).min(calls)).rev() {
            if n % GAP != 2 {
                assert!(reconciler.record(now, &host, &recorded[n]).is_empty());
            }
        }
        peak = peak.max(reconciler.open());
    }
    let told = start.elapsed();
    let end = calls as u64 + 2 * GRACE;
    reconciler.read(Some(&host), end);
    let gaps = reconciler.due(end, |_| true);
    let all = start.elapsed();
    let expected = (0..calls).filter(|n| n % GAP == 1 || n % GAP == 2).count();
    assert_eq!(gaps.len(), expected, "every gap is found, and nothing else");
    let each = all.as_nanos() / records.max(1) as u128;
    println!("{records} records in {:.2} s, {each} ns each", all.as_secs_f64());
    println!(
        "{} gaps found among them, {:.3} s after the last record",
        gaps.len(),
        (all - told).as_secs_f64()
    );
    println!("{peak} waiting at most at a time");
}

fn attempt(request: &str, host: &HostId) -> Attempt {
    serde_json::from_value(serde_json::json!({
        "request": request, "api": "HostStatus", "host": host, "resources": [], "time": 0, "caller": "azote:operator/alice",
    }))
    .unwrap()
}

fn record(request: &str) -> LogRecord {
    serde_json::from_value(serde_json::json!({
        "seq": 1, "time": "2026-01-02T03:04:05Z", "kind": "intent", "api": "HostStatus", "subject": "azote:operator/alice",
        "request": request, "token": "0".repeat(32), "prev": "00".repeat(32),
    }))
    .unwrap()
}

fn issued(host: &HostId) -> tokens::Entry {
    serde_json::from_value(serde_json::json!({
        "seq": 1, "time": 0, "kind": "issued", "subject": "azote:operator/alice", "audience": host, "token": "0".repeat(32),
    }))
    .unwrap()
}
