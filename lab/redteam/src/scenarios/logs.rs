//! What hosts and callers hide, and what somebody with the host's disk does to its log.

use crate::{
    Outcome,
    crew::{ALICE, Ask},
    play::{Act, Scenario},
    rack::Unit,
    stage::{Stage, copy},
};
use host_api::{Api, ReadStatus};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The audit service's grace, and its rhythm.
const GRACE: Duration = Duration::from_millis(audit::reconcile::GRACE);
/// Longest that the audit service may take to see it.
const SEEN: Duration = Duration::from_secs(15);
/// Calls that make a log long.
const CALLS: u64 = 30;
/// How often they are made, if the log is acknowledged meanwhile, as it is once a minute.
const TRIES: u32 = 3;
const ACKNOWLEDGED: &str = "the host's log was acknowledged";

pub(crate) fn gaps() -> Vec<Scenario> {
    let gap = |name, act, code: &'static [&'static str; 1]| {
        Scenario::new(name, act, code[0], "log-gap").says(code).waits(GRACE)
    };
    vec![
        gap("caller hides a call", hidden_call, &["audit.gap.unclaimed"]),
        gap("host hides a record", hidden_record, &["audit.gap.unrecorded"]),
        gap("caller and host tell different stories", two_stories, &["audit.gap.differs"]),
    ]
}

pub(crate) fn tampered() -> Vec<Scenario> {
    vec![
        Scenario::new("host log cut short on its disk", truncated, "audit.truncated", "log-tampered")
            .says(&["audit.truncated"])
            .alone(),
        Scenario::new(
            "host log with one byte flipped: the host does not start",
            flipped,
            "log.broken",
            "silent",
        )
        .waits(crate::stage::SILENCE)
        .alone(),
        Scenario::new(
            "host log rolled back to an older copy",
            rolled_back,
            "audit.truncated",
            "log-tampered",
        )
        .says(&["audit.truncated"])
        .alone(),
    ]
}

/// The code is what the audit log will have; the alarm must carry it.
fn found(at: Instant, code: &str) -> Outcome<Act> {
    Ok(Act { codes: vec![code.to_owned()], at })
}

fn hidden_call(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &Ask::new(Api::HostStatus, crew.here()))?;
    let prepared = crew.prepare(ALICE, &token, &ReadStatus {})?;
    let at = Instant::now();
    crew.send::<host_api::HostStatus>(&prepared, &token)??;
    found(at, "audit.gap.unclaimed")
}

/// From outside, a host that answers and records nothing looks like a call that was told of and never came.
fn hidden_record(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &Ask::new(Api::HostStatus, crew.here()))?;
    let prepared = crew.prepare(ALICE, &token, &ReadStatus {})?;
    let at = Instant::now();
    crew.tell(ALICE, &prepared.attempt)??;
    found(at, "audit.gap.unrecorded")
}

fn two_stories(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &Ask::new(Api::HostStatus, crew.here()))?;
    let prepared = crew.prepare(ALICE, &token, &ReadStatus {})?;
    let mut told = prepared.attempt.clone();
    told.api = Api::DrainHost;
    let at = Instant::now();
    crew.tell(ALICE, &told)??;
    crew.send::<host_api::HostStatus>(&prepared, &token)??;
    found(at, "audit.gap.differs")
}

/// The segments of the log in a folder, oldest first.
fn segments(log: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut segments: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    segments.retain(|path| path.extension().is_some_and(|kind| kind == "segment"));
    segments.sort_unstable();
    Ok(segments)
}

/// The last segment of the log in a folder, and what was written of it: zeros at its end are room.
fn last_segment(log: &Path) -> Outcome<(PathBuf, Vec<u8>)> {
    let last = segments(log)?.pop().ok_or("the host has no log")?;
    let mut bytes = fs::read(&last).map_err(|e| format!("{}: {e}", last.display()))?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok((last, bytes))
}

/// Stops the host, has its log changed, tries something with it, and gives the host its own log back.
fn with_log<T>(
    stage: &mut Stage,
    change: impl FnOnce(&Stage, &Path) -> Outcome<()>,
    attempt: impl FnOnce(&mut Stage, &Unit) -> Outcome<T>,
) -> Outcome<T> {
    let log = stage.rack.state.join("host/log");
    let kept = stage.rack.state.join("host.kept");
    // Nobody misses what nobody has read.
    stage.until("the audit service reads the host", SEEN, Stage::is_read)?;
    let unit = stage.rack.unit("controller")?;
    stage.rack.end("controller", Signal::TERM)?;
    copy(&log, &kept)?;
    let tried = change(stage, &log).and_then(|()| attempt(stage, &unit));
    copy(&kept, &log)?;
    stage.rack.start(&unit)?;
    stage.until("the audit service reads the host again", SEEN, Stage::is_read)?;
    tried
}

/// Runs the host with a changed log until the audit service has told of it.
fn run_with(stage: &mut Stage, unit: &Unit) -> Outcome<Instant> {
    let at = Instant::now();
    stage.rack.start(unit)?;
    let told = stage.told("log-tampered", at);
    stage.rack.end("controller", Signal::TERM)?;
    told.map(|()| at)
}

/// The records are gone from the host: the audit service misses what it had, and has it still.
fn truncated(stage: &mut Stage) -> Outcome<Act> {
    let log = stage.rack.state.join("host/log");
    // An acknowledgement takes older segments away, and a host that misses its record does not even start: none may be
    // in what is cut off.
    for _ in 0..TRIES {
        let (before, (_, kept)) = (segments(&log)?, last_segment(&log)?);
        make_calls(stage)?;
        let cut = |_: &Stage, log: &Path| {
            let (path, bytes) = last_segment(log)?;
            if segments(log)? != before {
                return Err(ACKNOWLEDGED.to_owned());
            }
            fs::write(&path, &bytes[..kept.len().min(bytes.len())]).map_err(|e| e.to_string())
        };
        match with_log(stage, cut, run_with) {
            Err(why) if why == ACKNOWLEDGED => {}
            cut => return found(cut?, "audit.truncated"),
        }
    }
    Err(ACKNOWLEDGED.to_owned())
}

/// What is cut off must be more than the host writes until it is read again, and nobody misses what nobody has read.
fn make_calls(stage: &mut Stage) -> Outcome<()> {
    let mut last = 0;
    for _ in 0..CALLS {
        let token = stage.crew.given(ALICE, &Ask::new(Api::HostStatus, stage.crew.here()))?;
        last = stage.crew.call(ALICE, &token, &ReadStatus {})??.log.last;
    }
    stage.until("the audit service has read them", SEEN, |stage| stage.has_read(last))
}

fn rolled_back(stage: &mut Stage) -> Outcome<Act> {
    found(with_log(stage, |stage, log| copy(&stage.early_log(), log), run_with)?, "audit.truncated")
}

/// A host does nothing with a log that it cannot believe: not even start.
fn flipped(stage: &mut Stage) -> Outcome<Act> {
    let flip = |_: &Stage, log: &Path| {
        let (path, mut bytes) = last_segment(log)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).map_err(|e| e.to_string())
    };
    let attempt = |stage: &mut Stage, unit: &Unit| {
        let at = Instant::now();
        let said = stage.rack.start(unit).err().unwrap_or_default();
        stage.told("silent", at)?;
        let code = if said.contains("log is broken") { "log.broken" } else { said.as_str() };
        found(at, code)
    };
    with_log(stage, flip, attempt)
}
