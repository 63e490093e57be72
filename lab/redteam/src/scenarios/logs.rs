//! What hosts and callers hide, and what somebody with the host's disk does to its log.

use crate::{
    Outcome,
    crew::{ALICE, Ask},
    play::{Act, Scenario},
    stage::Stage,
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
/// How long the rule on changed logs keeps another alarm of its kind back.
const TAMPERED_AGAIN: Duration = Duration::from_secs(10);
/// Longest that the audit service may take to see it.
const SEEN: Duration = Duration::from_secs(15);

pub(crate) fn gaps() -> Vec<Scenario> {
    let gap = |name, act, code: &'static [&'static str]| Scenario {
        name,
        act,
        codes: code,
        rule: "log-gap",
        says: code,
        waits: GRACE,
        alone: false,
    };
    vec![
        gap("caller hides a call", hidden_call, &["audit.gap.unclaimed"]),
        gap("host hides a record", hidden_record, &["audit.gap.unrecorded"]),
        gap("caller and host tell different stories", two_stories, &["audit.gap.differs"]),
    ]
}

pub(crate) fn tampered() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "host log cut short on its disk",
            act: truncated,
            codes: &["audit.truncated"],
            rule: "log-tampered",
            says: &["audit.truncated"],
            waits: Duration::ZERO,
            alone: true,
        },
        Scenario {
            name: "host log with one byte flipped: the host does not start",
            act: flipped,
            codes: &["log.broken"],
            rule: "silent",
            says: &[],
            waits: crate::stage::SILENCE,
            alone: true,
        },
        Scenario {
            name: "host log rolled back to an older copy",
            act: rolled_back,
            codes: &["audit.truncated"],
            rule: "log-tampered",
            says: &["audit.truncated"],
            waits: TAMPERED_AGAIN,
            alone: true,
        },
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

/// Everything in a folder without folders in it.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}

/// The last segment of the log in a folder, and what it holds.
fn last_segment(log: &Path) -> Outcome<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut segments: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    segments.retain(|path| path.extension().is_some_and(|kind| kind == "segment"));
    segments.sort_unstable();
    let last = segments.pop().ok_or("the host has no log")?;
    let bytes = fs::read(&last).map_err(|e| format!("{}: {e}", last.display()))?;
    Ok((last, bytes))
}

/// Runs the host for a while with a log that somebody has changed, until the audit service has told of it; then with
/// its own again.
fn with_log(stage: &mut Stage, change: fn(&Stage, &Path) -> Outcome<()>, rule: &str) -> Outcome<Instant> {
    let log = stage.rack.state.join("host/log");
    let kept = stage.rack.state.join("host.kept");
    let unit = stage.rack.unit("controller")?;
    stage.rack.end("controller", Signal::TERM)?;
    copy(&log, &kept)?;
    change(stage, &log)?;
    let at = Instant::now();
    let tried = stage.rack.start(&unit).and_then(|()| stage.told(rule, at));
    let _ = stage.rack.end("controller", Signal::TERM);
    copy(&kept, &log)?;
    stage.rack.start(&unit)?;
    tried?;
    stage.until("the audit service reads the host again", SEEN, |stage| stage.is_read())?;
    Ok(at)
}

/// The records are gone from the host: the audit service misses what it had, and has it still.
fn truncated(stage: &mut Stage) -> Outcome<Act> {
    let cut = |_: &Stage, log: &Path| {
        let (path, bytes) = last_segment(log)?;
        fs::write(&path, &bytes[..bytes.len() / 4]).map_err(|e| e.to_string())
    };
    found(with_log(stage, cut, "log-tampered")?, "audit.truncated")
}

fn rolled_back(stage: &mut Stage) -> Outcome<Act> {
    let back = |stage: &Stage, log: &Path| copy(&stage.early_log(), log);
    found(with_log(stage, back, "log-tampered")?, "audit.truncated")
}

/// A host does nothing with a log that it cannot believe: not even start.
fn flipped(stage: &mut Stage) -> Outcome<Act> {
    let flip = |_: &Stage, log: &Path| {
        let (path, mut bytes) = last_segment(log)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).map_err(|e| e.to_string())
    };
    let log = stage.rack.state.join("host/log");
    let kept = stage.rack.state.join("host.kept");
    let unit = stage.rack.unit("controller")?;
    stage.rack.end("controller", Signal::TERM)?;
    copy(&log, &kept)?;
    flip(stage, &log)?;
    let at = Instant::now();
    let said = stage.rack.start(&unit).err().unwrap_or_default();
    let told = stage.told("silent", at);
    copy(&kept, &log)?;
    stage.rack.start(&unit)?;
    told?;
    stage.until("the audit service reads the host again", SEEN, |stage| stage.is_read())?;
    let code = if said.contains("log is broken") { "log.broken" } else { said.as_str() };
    found(at, code)
}
