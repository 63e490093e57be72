//! Changes what a host starts from, one thing at a time, and starts it. Each change must be refused by the stage that
//! looks first, with its documented code, and nothing may start: every reset line stays held.

mod cases;
mod host;

use crate::Outcome;
pub(crate) use host::Host;
use serde::Serialize;
use std::{path::Path, time::Instant};

/// Changes something, and gives what came of it.
type Act = dyn Fn(&mut Host) -> Outcome<Seen>;

/// A change, and what must come of it.
pub(crate) struct Case {
    /// What is changed.
    name: &'static str,
    /// Changes it, and gives what came of it.
    act: Box<Act>,
    /// Who refuses.
    stage: &'static str,
    code: &'static str,
    /// What the refusal names; nothing where it names none.
    entry: &'static str,
}

/// What came of a start, or of what was tried instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stage: String,
    pub(crate) code: String,
    /// Everything that the refusal says.
    pub(crate) message: String,
    /// Every reset line is held, and the main board never ran.
    pub(crate) held: bool,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    changed: &'static str,
    stage: String,
    code: String,
    ok: bool,
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    results: Vec<Row>,
    seconds: u64,
}

/// Makes every change whose name contains `name`; what came of it, as text or as JSON, and whether all were refused.
pub fn run(programs: &Path, name: Option<&str>, keep: bool, json: bool) -> Outcome<(String, bool)> {
    let mut chosen = cases::all();
    chosen.retain(|case| name.is_none_or(|name| case.name.contains(name)));
    if chosen.is_empty() {
        let names: Vec<_> = cases::all().iter().map(|case| case.name).collect();
        return Err(format!("no such change; there are:\n  {}", names.join("\n  ")));
    }
    let start = Instant::now();
    let folder = tempfile::Builder::new().prefix("azote-rt-").tempdir().map_err(|e| e.to_string())?;
    let mut host = Host::new(programs, folder.path(), &[])?;
    let mut results = vec![row(&cases::nothing(), &mut host)];
    for case in &chosen {
        let row = row(case, &mut host);
        if !json {
            println!("{}", row.line());
        }
        results.push(row);
    }
    host.down()?;
    if keep {
        eprintln!("left in {}", folder.keep().display());
    }
    let bad = results.iter().filter(|row| !row.ok).count();
    let report = Report { results, seconds: start.elapsed().as_secs() };
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?
    } else {
        let unchanged = report.results.first().map(Row::line).unwrap_or_default();
        let (count, seconds) = (chosen.len(), report.seconds);
        format!("{unchanged}\n{count} changes, {bad} not as they should be; {seconds} s in all")
    };
    Ok((text, bad == 0))
}

fn row(case: &Case, host: &mut Host) -> Row {
    let seen = host.restore().and_then(|()| (case.act)(host));
    let stopped = host.stop();
    match seen.and_then(|seen| stopped.map(|()| seen)) {
        Err(why) => Row::new(case.name, String::new(), String::new(), Some(why)),
        Ok(seen) => {
            let why = case.objection(&seen);
            Row::new(case.name, seen.stage, seen.code, why)
        }
    }
}

impl Case {
    fn objection(&self, seen: &Seen) -> Option<String> {
        let started = self.stage == host::NOBODY;
        if (seen.stage.as_str(), seen.code.as_str()) != (self.stage, self.code) {
            Some(format!("want {} {}; it said: {}", self.stage, self.code, seen.message))
        } else if seen.held == started {
            Some("the main board is not as it should be".to_owned())
        } else if !seen.message.contains(self.entry) {
            Some(format!("it does not name `{}`: {}", self.entry, seen.message))
        } else {
            None
        }
    }
}

impl Row {
    fn new(changed: &'static str, stage: String, code: String, why: Option<String>) -> Self {
        Self { changed, stage, code, ok: why.is_none(), why }
    }

    fn line(&self) -> String {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        let why = self.why.as_ref().map(|why| format!("  {why}")).unwrap_or_default();
        format!("{mark} {:<58} {:<12} {:<22}{why}", self.changed, self.stage, self.code)
    }
}
