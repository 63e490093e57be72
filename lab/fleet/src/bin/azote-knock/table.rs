//! What was measured, and how it is told.

use crate::knocks::Knock;
use serde::Serialize;
use std::time::Duration;

/// How many times as long as the disk alone a call may take.
const GOAL: f64 = 1.3;

/// One measurement. Times are in microseconds.
#[derive(Serialize)]
pub(crate) struct Measured {
    knock: Knock,
    callers: u32,
    calls_per_second: f64,
    p50: f64,
    p99: f64,
    /// How often a call waits for the disk.
    syncs: u32,
    /// So many syncs of one who is alone, in the quicker of two ways.
    sync_p50: f64,
    sync_p99: f64,
    ratio_p50: f64,
    ratio_p99: f64,
    /// So many appends, while as many append as there are callers, who share writes.
    group_p50: f64,
    group_p99: f64,
    group_ratio_p50: f64,
    group_ratio_p99: f64,
    /// CPU time of one call, with what the system does for it.
    client_cpu: f64,
    server_cpu: f64,
    /// The signatures of one call: a proof to check, and records to sign.
    signatures: f64,
    /// What the median call takes beside the disk.
    beside: f64,
    /// From which time of one sync on that would be within the goal.
    within_from: f64,
}

impl Measured {
    pub(crate) fn new(
        knock: Knock,
        callers: u32,
        [p50, p99]: [f64; 2],
        [[sync_p50, sync_p99], [group_p50, group_p99]]: [[f64; 2]; 2],
        [client_cpu, server_cpu]: [f64; 2],
        signatures: f64,
        calls_per_second: f64,
    ) -> Self {
        // With many callers, a call also waits for the CPUs and for the write that is under way.
        let (syncs, beside) =
            (knock.syncs(), (p50 - if callers > 1 { group_p50 } else { sync_p50 }).max(0.0));
        Self {
            knock,
            callers,
            calls_per_second,
            p50,
            p99,
            syncs,
            sync_p50,
            sync_p99,
            ratio_p50: p50 / sync_p50,
            ratio_p99: p99 / sync_p99,
            group_p50,
            group_p99,
            group_ratio_p50: p50 / group_p50,
            group_ratio_p99: p99 / group_p99,
            client_cpu,
            server_cpu,
            signatures,
            beside,
            within_from: beside / (GOAL - 1.0) / f64::from(syncs),
        }
    }

    pub(crate) fn print(&self) {
        let Self { callers, p50, p99, client_cpu, server_cpu, signatures, beside, calls_per_second, .. } =
            self;
        let ratios = |p50: f64, p99: f64| format!("{p50:.2} {p99:.2}");
        println!(
            "{:<8} {callers:<8} {p50:<8.0} {p99:<8.0} {:<6} {:<7.0} {:<7.0} {:<11} {:<7.0} {:<7.0} {:<11} {beside:<7.0} {client_cpu:<7.0} {server_cpu:<5.0} {signatures:<11.0} {calls_per_second:.0}",
            self.knock.name(),
            self.syncs,
            self.sync_p50,
            self.sync_p99,
            ratios(self.ratio_p50, self.ratio_p99),
            self.group_p50,
            self.group_p99,
            ratios(self.group_ratio_p50, self.group_ratio_p99),
        );
    }
}

pub(crate) fn head() {
    println!(
        "                  a call            the disk alone                     appends of as many in groups  in a call, µs\n\
         call     callers  p50 µs   p99 µs   syncs  p50     p99     ratios      p50     p99     ratios      beside  caller  door  signatures  calls/s"
    );
}

pub(crate) fn foot(all: &[Measured]) {
    for measured in all.iter().filter(|measured| measured.callers == 1) {
        println!(
            "{}: within {GOAL} times the disk where a sync takes {:.0} µs or more",
            measured.knock.name(),
            measured.within_from
        );
    }
    println!(
        "beside: what the median takes beside the disk, alone or in groups; CPU of caller and door: with what the system does for them"
    );
}

/// Median and 99th percentile in microseconds.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    })
}
