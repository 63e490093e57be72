//! What the hypervisor costs, measured in one run beside whatever peer is at hand. Nothing here is typed by hand: a
//! number that this machine cannot show is left out, with the command that would show it.

#[path = "../machine/src/compute.rs"]
mod compute;

use crate::{
    Error,
    peer::{Peer, Shape},
    report::{Check, Verdict},
    rig::Size,
    scenario::{self, Programs},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

/// How often a start is measured.
const STARTS: usize = 15;
/// How often everything else is measured, in turn.
const TURNS: usize = 4;
/// How long a machine sleeps while its process's memory is looked at.
const SLEEP: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(90);
const SMALL: Size = Size { cpus: 1, memory_mib: 128 };
/// What things are called outside, by the guest's names.
const COSTS: [(&str, &str); 11] = [
    ("port-out", "exit: write to a port"),
    ("port-in", "exit: read from a port"),
    ("mmio-write", "exit: write to a register in memory"),
    ("mmio-read", "exit: read from a register in memory"),
    ("fault-inside", "no exit: a fault to the guest's own kernel mode and back"),
    ("interrupt-self", "a processor's interrupt to itself"),
    ("doorbell", "NVMe doorbell write"),
    ("bell", "exit: doorbell by ioeventfd, which nobody outside of the kernel sees"),
    ("bell-answered", "doorbell by ioeventfd to a waiting process, and its interrupt by irqfd"),
    ("nvme-read-awake", "NVMe read of 4 KiB, waiting awake"),
    ("nvme-read-asleep", "NVMe read of 4 KiB, waiting asleep"),
];

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured, and how.
    pub what: String,
    /// Of `azote`, `native` and the peers.
    pub unit: &'static str,
    /// Ours; none if this machine cannot show it.
    pub azote: Option<f64>,
    /// At most this, in the same unit.
    pub goal: Option<f64>,
    /// By name.
    pub peers: BTreeMap<&'static str, f64>,
    /// What to know about it; for what was not measured, the command that would.
    pub note: String,
}

impl Row {
    pub(crate) fn new(what: &str, unit: &'static str, azote: Option<f64>, goal: Option<f64>) -> Self {
        Self { what: what.to_owned(), unit, azote, goal, peers: BTreeMap::new(), note: String::new() }
    }
}

/// Everything that the guest can show. `say` hears what is being measured.
pub fn all(programs: &Programs, peers: &[Peer], say: &mut dyn FnMut(&str)) -> Result<Vec<Row>, Error> {
    say("starts");
    let mut rows = starts(programs, peers)?;
    say("memory");
    rows.push(memory(programs, peers)?);
    say("compute");
    rows.push(compute(programs)?);
    say("exits");
    rows.extend(costs(programs, peers)?);
    let mut linux = Row::new("kernel start to init on VMX or SVM, serial off", "ms", None, Some(125.0));
    let (name, kernels) = scenario::virtualisation();
    let how =
        "on a machine with VMX or SVM, `cargo xtask guest linux` says after how long the guest is ready";
    linux.note = if kernels { how.to_owned() } else { format!("here is {name}; {how}") };
    rows.push(linux);
    Ok(rows)
}

/// The number of a check, in nanoseconds.
fn number(checks: &[Check], name: &str) -> Option<f64> {
    let check = checks.iter().find(|check| check.name == name && check.verdict == Verdict::Ok)?;
    check.text.strip_suffix(" ns")?.parse().ok()
}

/// From just before the process was started to the guest's first instruction, by the guest's own clock, in ms.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of a difference")]
fn start(checks: &[Check], started: u128) -> Option<f64> {
    let check = checks.iter().find(|check| check.name == "first-instruction")?;
    let first: u128 = check.text.strip_suffix(" ns")?.parse().ok()?;
    Some(first.checked_sub(started)? as f64 / 1e6)
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

fn best(numbers: Vec<f64>) -> Option<f64> {
    numbers.into_iter().min_by(f64::total_cmp)
}

/// Ours and the peers' in turn, so that all see the same load.
fn starts(programs: &Programs, peers: &[Peer]) -> Result<Vec<Row>, Error> {
    const WORDS: &str = "bench only=first-instruction";
    let mut ours = Vec::new();
    let mut theirs: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..STARTS {
        let run = scenario::run(programs, &SMALL, WORDS, false, LIMIT)?;
        ours.extend(start(&run.checks, run.started));
        // QEMU's firmware takes seconds where kernel mode is emulated.
        for peer in peers.iter().filter(|peer| round < 3 || matches!(peer, Peer::Firecracker(_))) {
            let run = peer.run(WORDS, Shape::Small, LIMIT)?;
            theirs.entry(peer.name()).or_default().extend(start(&run.checks, run.started));
        }
    }
    let mut rows = Vec::new();
    for (name, goal) in [("median", Some(8.0)), ("best", None)] {
        let pick = if goal.is_some() { median } else { best };
        let what = format!("process start to the guest's first instruction, {name} of {STARTS}");
        let mut row = Row::new(&what, "ms", pick(ours.clone()), goal);
        row.peers = theirs.iter().filter_map(|(name, all)| Some((*name, pick(all.clone())?))).collect();
        rows.push(row);
    }
    Ok(rows)
}

#[allow(clippy::cast_precision_loss, reason = "some MiB")]
fn memory(programs: &Programs, peers: &[Peer]) -> Result<Row, Error> {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let run = scenario::run(programs, &SMALL, "sleep", false, SLEEP)?;
    let what = "resident memory of the process besides guest RAM, 1 vCPU, 128 MiB";
    let mut row = Row::new(what, "MiB", Some(mib(run.own_kib)), Some(3.0));
    row.note = "with the pages of its files, which all processes of a host share".to_owned();
    for peer in peers {
        let run = peer.run("sleep", Shape::Small, SLEEP)?;
        row.peers.insert(peer.name(), mib(run.own_kib));
    }
    Ok(row)
}

/// How many percent longer the loop takes inside.
fn compute(programs: &Programs) -> Result<Row, Error> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for _ in 0..100 {
            let start = Instant::now();
            black_box(compute::compute(compute::ROUNDS));
            outside.push(start.elapsed().as_secs_f64() * 1e9);
        }
        let run = scenario::run(programs, &SMALL, "bench only=compute", false, LIMIT)?;
        inside.extend(number(&run.checks, "compute"));
    }
    let lost = best(inside).zip(best(outside)).map(|(inside, outside)| (inside / outside - 1.0) * 100.0);
    let mut row =
        Row::new("compute inside the guest (CPL3), lost against the same loop native", "%", lost, Some(1.0));
    let turns = TURNS * 100;
    row.note = format!("best of {turns} each, in turn");
    row.peers.extend(lost.map(|_| ("native", 0.0)));
    Ok(row)
}

/// Ours and the peers' in turn; of each the best.
fn costs(programs: &Programs, peers: &[Peer]) -> Result<Vec<Row>, Error> {
    let mut rows: Vec<Row> = COSTS.iter().map(|(_, what)| Row::new(what, "us", None, None)).collect();
    let mut add = |peer: Option<&'static str>, checks: &[Check]| {
        for (row, (name, _)) in rows.iter_mut().zip(COSTS) {
            let Some(us) = number(checks, name).map(|ns| ns / 1000.0) else { continue };
            let held = match peer {
                Some(peer) => row.peers.entry(peer).or_insert(us),
                None => row.azote.get_or_insert(us),
            };
            *held = held.min(us);
        }
    };
    for _ in 0..TURNS {
        add(None, &scenario::run(programs, &SMALL, "exits", true, LIMIT)?.checks);
        for peer in peers {
            let shape = if matches!(peer, Peer::Qemu(_)) { Shape::Nvme } else { Shape::Small };
            add(Some(peer.name()), &peer.run("exits", shape, LIMIT)?.checks);
        }
    }
    Ok(rows)
}
