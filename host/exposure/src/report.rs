//! What was found, for people and for programs.

use crate::{Expectations, Finding, Known, Process, Survey};
use serde::Serialize;
use std::fmt::Write;

/// A survey and what was found in it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Nothing fails.
    pub holds: bool,
    /// What no sandbox file names, and what could not be read.
    pub findings: Vec<Finding>,
    /// All that was looked at.
    pub survey: Survey,
}

impl Report {
    /// Of a survey and its judgement.
    pub fn new(survey: Survey, findings: Vec<Finding>) -> Self {
        Self { holds: !findings.iter().any(|finding| finding.fails), findings, survey }
    }

    /// For people.
    pub fn text(&self, expected: &Expectations) -> String {
        let mut text = String::new();
        for process in &self.survey.processes {
            let role = match expected.of(&process.name) {
                Some(it) => it
                    .stands_in
                    .as_ref()
                    .map_or("a room of the host".to_owned(), |why| format!("stands in: {why}")),
                None => "unknown".to_owned(),
            };
            let _ = writeln!(text, "{} ({}): {role}", plain(&process.name), process.pid);
            for (what, found) in rows(process) {
                let _ = writeln!(text, "    {what:<14} {found}");
            }
        }
        let _ = writeln!(text);
        for finding in &self.findings {
            let Finding { code, pid, process, detail, fails } = finding;
            let mark = if *fails { "✘" } else { "·" };
            let _ = writeln!(text, "{mark} {code}: {} ({pid}): {}", plain(process), plain(detail));
        }
        let failures = self.findings.iter().filter(|finding| finding.fails).count();
        let _ = write!(
            text,
            "{} processes, {failures} exposures that no sandbox file names, {} facts not readable",
            self.survey.processes.len(),
            self.findings.iter().filter(|finding| finding.code == "exposure.unreadable").count()
        );
        text
    }
}

/// Without what a name could do to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn rows(process: &Process) -> Vec<(&'static str, String)> {
    let mut rows = vec![("program", tell(&process.program, |path| path.display().to_string()))];
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    rows.push((
        "listens",
        tell(&process.listeners, |all| list(all.iter().map(|it| it.address.clone()).collect())),
    ));
    rows.push((
        "connected to",
        tell(&process.connections, |all| list(all.iter().map(|it| it.peer.to_string()).collect())),
    ));
    rows.push((
        "writes",
        tell(&process.files, |all| {
            list(all.iter().filter(|it| it.writable && it.is_path()).map(|it| it.target.clone()).collect())
        }),
    ));
    rows.push((
        "executable",
        tell(&process.executable, |all| {
            let name = |file: &str| file.rsplit('/').next().unwrap_or(file).to_owned();
            list(
                all.iter()
                    .map(|it| if it.file.is_empty() { "(anonymous)".to_owned() } else { name(&it.file) })
                    .collect(),
            )
        }),
    ));
    rows.push((
        "confined",
        tell(&process.threads, |threads| {
            list(
                threads
                    .iter()
                    .map(|it| {
                        let privileges =
                            if it.no_new_privs { "no new privileges" } else { "may gain privileges" };
                        let sets = it.capabilities;
                        let held = sets.permitted | sets.effective | sets.inheritable | sets.ambient;
                        format!(
                            "{} filters, {privileges}, capabilities {held:#x}, user {}",
                            it.filters, it.users[1]
                        )
                    })
                    .collect(),
            )
        }),
    ));
    let terminal = if process.terminal == 0 { "none".to_owned() } else { format!("{:#x}", process.terminal) };
    rows.push(("terminal", terminal));
    rows
}

fn tell<T>(known: &Known<T>, how: impl Fn(&T) -> String) -> String {
    match known {
        Known::Read(value) => plain(&how(value)),
        Known::Unread(why) => format!("not readable: {}", plain(why)),
    }
}
