//! The audit log: where its service reads from, and `azote log`, `azote log verify`, `azote alarms`.

use crate::{
    args::{Log, LogVerb, Verify},
    cloud::Cloud,
    failure::{Doing, Failure},
    interrupt,
    out::{self, Out},
    place::Place,
    up,
};
use audit::{
    client::{self, MAX_WAIT, Numbered},
    entry::{Entry, Observed, ObservedKind, Record},
    note::{Checkpoint, VerifierKey},
    verify::{self, HostReport, Reader, Report, VerifyError},
};
use host_api::LogRecord;
use ids::Identity;
use monitor::Alarm;
use service::Certified;
use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use token::PublicKey;

/// The log's public key, as the audit service wrote it when it was enrolled.
const KEY: &str = "audit/log.vkey";
/// What the audit service reads from.
const SOURCES: &str = "audit/sources";
/// The checkpoint that was verified last: a later log must continue it.
const VERIFIED: &str = "verified-checkpoint";

/// How long the audit service may take to read what the host has written.
const CATCH_UP: Duration = Duration::from_secs(15);

/// Tells the audit service where the token service is and, once it runs, the host.
pub(crate) fn write_sources(place: &Place, host: Option<&Certified>) -> Result<(), Failure> {
    let mut text = format!("tokens {}\n", up::address(place, "tokens")?);
    if let Some(Certified { identity: Identity::Host(host), public_key, .. }) = host {
        let (address, key) = (up::address(place, "controller")?, String::from(PublicKey(*public_key)));
        let _ = writeln!(text, "host/{host} {address} {key}");
    }
    let path = place.path(SOURCES);
    service::write_atomic(&path, text.as_bytes()).doing(path.display())
}

/// `azote log …`
pub(crate) fn run(out: Out, place: &Place, log: &Log) -> Result<(), Failure> {
    match &log.verb {
        Some(LogVerb::Verify(how)) => verify(out, place, how),
        None => read(out, &Cloud::open(place)?, log),
    }
}

/// `azote alarms`
pub(crate) fn alarms(out: Out, place: &Place, after: u64) -> Result<(), Failure> {
    let cloud = Cloud::open(place)?;
    let mut entries: Vec<Numbered> = Vec::new();
    loop {
        let after = entries.last().map_or(after, |last| last.index + 1);
        let page = cloud.audit(async |audit| client::alarms(audit, after).await)?;
        if page.entries.is_empty() {
            break;
        }
        entries.extend(page.entries);
    }
    if entries.is_empty() {
        out.remark("no alarms");
    }
    out.result(&table(&entries), &entries);
    Ok(())
}

fn read(out: Out, cloud: &Cloud, log: &Log) -> Result<(), Failure> {
    let mut after = log.after;
    let mut all = Vec::new();
    let end =
        if log.follow { u64::MAX } else { cloud.audit(async |audit| client::status(audit).await)?.size };
    if log.follow {
        interrupt::watch().doing("signals")?;
    }
    while after < end && !interrupt::asked() {
        let wait = if log.follow { MAX_WAIT } else { 0 };
        let page = cloud.audit(async |audit| client::entries(audit, after, wait).await)?;
        after = page.entries.last().map_or(after, |last| last.index + 1);
        if page.entries.is_empty() && !log.follow {
            break;
        }
        if log.follow {
            follow(out, &page.entries);
        } else {
            all.extend(page.entries.into_iter().filter(|entry| entry.index < end));
        }
    }
    if !log.follow {
        out.result(&table(&all), &all);
    }
    Ok(())
}

/// Prints as it comes, without the reads by which we follow: each of them would be followed by the next.
fn follow(out: Out, entries: &[Numbered]) {
    let reads =
        |entry: &Entry| matches!(&entry.record, Record::Audit(said) if said.kind == ObservedKind::Read);
    for numbered in entries {
        match Entry::parse(numbered.entry.get().as_bytes()) {
            Ok(entry) if reads(&entry) => {}
            _ if out.is_json() => out::print(&serde_json::to_string(numbered).unwrap_or_default()),
            _ => out.line(&table(std::slice::from_ref(numbered))),
        }
    }
}

/// Entries as a table.
pub(crate) fn table(entries: &[Numbered]) -> String {
    let line = |numbered: &Numbered| {
        let parsed = Entry::parse(numbered.entry.get().as_bytes());
        let text =
            parsed.map_or_else(|_| "(not an entry of this release)".to_owned(), |entry| describe(&entry));
        format!("{:>6}  {text}", numbered.index).trim_end().to_owned()
    };
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One entry in a line, without its index.
fn describe(entry: &Entry) -> String {
    let who = |subject: Option<&Identity>| {
        subject.map(|subject| subject.to_string().replacen("azote:", "", 1)).unwrap_or_default()
    };
    match &entry.record {
        Record::Host(_, host) => format!("host      {}", crate::verbs::log_line(&host.record)),
        Record::Issued(decision) => {
            let kind = format!("{:?}", decision.kind).to_lowercase();
            let what = decision.operations.iter().map(|api| api.as_str()).collect::<Vec<_>>().join(" ");
            let on = decision.resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            row(
                "tokens",
                decision.time,
                &kind,
                &what,
                &who(decision.subject.as_ref()),
                &[code(decision.code.as_deref()), on],
            )
        }
        Record::Attempt(attempt) => {
            let on = attempt.resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let code = code(attempt.code.as_ref().map(|code| code.as_str()));
            row(
                "caller",
                attempt.time,
                "attempt",
                attempt.api.as_str(),
                &who(Some(&attempt.caller)),
                &[code, on],
            )
        }
        Record::Audit(observed) => {
            let Observed { kind, subject, host, api, code: said, detail, .. } = &**observed;
            let kind = format!("{kind:?}").to_lowercase();
            let what = api.map(|api| api.to_string()).unwrap_or_default();
            let said = code(said.as_ref().map(|code| code.as_str()));
            let host = host.as_ref().map(ToString::to_string).unwrap_or_default();
            let detail = detail.as_ref().map(ToString::to_string).unwrap_or_default();
            row("audit", entry.time, &kind, &what, &who(subject.as_ref()), &[said, host, detail])
        }
        Record::Alarm(alarm) => {
            let rest = [alarm.rule.clone(), alarm.summary.clone(), alarm.runbook.clone()];
            row("monitor", alarm.time, "ALARM", alarm.severity.name(), &who(alarm.subject.as_ref()), &rest)
        }
    }
}

fn code(code: Option<&str>) -> String {
    code.unwrap_or_default().to_owned()
}

fn row(source: &str, milliseconds: u64, kind: &str, what: &str, who: &str, rest: &[String]) -> String {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).map(|time| time.time());
    let time = time.map_or_else(
        |_| String::new(),
        |at| format!("{:02}:{:02}:{:02}.{:03}", at.hour(), at.minute(), at.second(), at.millisecond()),
    );
    let rest = rest.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("  ");
    let line = format!("{source:<9} {:>5}  {time}  {kind:<8} {what:<14} {who:<22} {rest}", "");
    // Texts of others may hold anything.
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().trim_end().to_owned()
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::Advice(error.code(), error.to_string())
    }
}

fn verify(out: Out, place: &Place, how: &Verify) -> Result<(), Failure> {
    let key = match &how.key {
        Some(key) => key.clone(),
        None => key(place)?,
    };
    let progress = out.progress("verifying");
    let done = &mut |done| progress.at(&format!("{done} entries"));
    let (report, note) = match &how.offline {
        Some(folder) => {
            let mut files = |name: &str| {
                let path = folder.join(name);
                fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
            };
            check(&key, &mut files, how, done)?
        }
        None => {
            let cloud = Cloud::open(place)?;
            let mut calls = |name: &str| {
                let path = format!("/{name}");
                cloud.audit(async |audit| audit.bytes(&path).await).map_err(|error| error.to_string())
            };
            check(&key, &mut calls, how, done)?
        }
    };
    drop(progress);
    remember(place, &note)?;
    out.result(&report_text(&report, &key), &report);
    Ok(())
}

/// The log's public key, as this installation knows it.
pub(crate) fn key(place: &Place) -> Result<VerifierKey, Failure> {
    let path = place.path(KEY);
    let text = fs::read_to_string(&path).doing(path.display())?;
    text.trim().parse().map_err(|error| Failure::State(format!("{}: {error}", path.display())))
}

fn check(
    key: &VerifierKey,
    read: verify::Read<'_>,
    how: &Verify,
    progress: &mut dyn FnMut(u64),
) -> Result<(Report, String), Failure> {
    let mut reader = Reader::open(key, read)?;
    if let Some(seen) = &how.since {
        let text = fs::read_to_string(seen).doing(seen.display())?;
        continues(&mut reader, &text, key, seen)?;
    }
    let report = verify::whole(&mut reader, progress)?;
    Ok((report, reader.note().to_owned()))
}

fn continues(reader: &mut Reader<'_>, note: &str, key: &VerifierKey, file: &Path) -> Result<(), Failure> {
    let old = Checkpoint::open(note, key);
    let old = old.map_err(|_| Failure::State(format!("{} is no checkpoint of this log", file.display())))?;
    Ok(reader.continues(&old)?)
}

/// Keeps what was verified, for `--since`.
fn remember(place: &Place, note: &str) -> Result<(), Failure> {
    let path = place.path(VERIFIED);
    service::write_atomic(&path, note.as_bytes()).doing(path.display())
}

fn report_text(report: &Report, key: &VerifierKey) -> String {
    let mut text = format!("log        {}, signed\n", key.name());
    let _ = writeln!(text, "tree       {} entries, root {}", report.size, report.root);
    let _ = writeln!(text, "proofs     {} inclusion proofs checked", report.proofs);
    for (host, report) in &report.hosts {
        let HostReport { records, signatures, signed, .. } = report;
        let _ = writeln!(
            text,
            "host       {host}: {records} records, a whole chain, signed by the host up to {signed} ({signatures} signatures)"
        );
    }
    let _ = writeln!(
        text,
        "besides    {} decisions of the token service, {} attempts of callers, {} reads, {} alarms",
        report.decisions, report.attempts, report.reads, report.alarms
    );
    for (code, count) in &report.found {
        let _ = writeln!(text, "found      {code}: {count}");
    }
    text.trim_end().to_owned()
}

/// What the audit log has of this installation's host, and all of it verified.
pub(crate) struct Copy {
    /// The host's records.
    pub(crate) records: Vec<LogRecord>,
    /// Alarms.
    pub(crate) alarms: Vec<Alarm>,
    /// What was verified.
    pub(crate) report: Report,
}

/// Waits until the audit service holds the host's record `seq`, then reads and verifies the log.
pub(crate) fn copy(cloud: &Cloud, key: &VerifierKey, seq: u64) -> Result<Copy, Failure> {
    let source = format!("host/{}", cloud.installation.host);
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let status = cloud.audit(async |audit| client::status(audit).await)?;
        if status.sources.iter().any(|known| known.source == source && known.seq >= seq) {
            break;
        }
        if Instant::now() > deadline {
            return Err(Failure::Advice(
                "audit.behind",
                "the audit service did not read the host".to_owned(),
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let (mut after, mut records, mut alarms) = (0, Vec::new(), Vec::new());
    loop {
        let page = cloud.audit(async |audit| client::entries(audit, after, 0).await)?;
        let Some(last) = page.entries.last() else { break };
        after = last.index + 1;
        for numbered in &page.entries {
            match Entry::parse(numbered.entry.get().as_bytes()).map_err(Failure::state)?.record {
                Record::Host(host, record) if host == cloud.installation.host => records.push(record.record),
                Record::Alarm(alarm) => alarms.push(*alarm),
                _ => {}
            }
        }
        if after >= page.size {
            break;
        }
    }
    let mut read = |name: &str| {
        let path = format!("/{name}");
        cloud.audit(async |audit| audit.bytes(&path).await).map_err(|error| error.to_string())
    };
    let report = verify::whole(&mut Reader::open(key, &mut read)?, &mut |_| ())?;
    Ok(Copy { records, alarms, report })
}
