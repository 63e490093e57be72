//! Judges what was found by what the sandbox files name. Pure.

use crate::{
    expect::{Expectation, Expectations},
    facts::{DELETED, Known, Open, Process, Survey},
    parse::{Listener, ListenerKind, Mapping, Status},
};
use serde::Serialize;
use std::path::Path;

/// Something that no sandbox file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: `exposure.…`.
    pub code: &'static str,
    /// In which process; 0 for none in particular.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// What it is.
    pub detail: String,
    /// Counts as a failure. What could not be read need not, if whoever asks says so.
    pub fails: bool,
}

const UNREADABLE: &str = "exposure.unreadable";

/// What [`judge`] lets pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowances {
    /// What could not be read is told and does not fail.
    pub unread: bool,
}

/// Judges a survey. Empty, or nothing that [fails](Finding::fails): nothing is exposed beyond what is named.
pub fn judge(survey: &Survey, expected: &Expectations, allowed: Allowances) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in &survey.processes {
        let mut judge = Judge { survey, process, allowed, findings: &mut findings };
        match expected.of(&process.name) {
            Some(expectation) => judge.process(expectation),
            None => judge.find("exposure.unknown-process", "no sandbox file is for a program of this name"),
        }
    }
    ownerless(survey, expected, allowed, &mut findings);
    findings.dedup();
    findings
}

struct Judge<'a> {
    survey: &'a Survey,
    process: &'a Process,
    allowed: Allowances,
    findings: &'a mut Vec<Finding>,
}

impl Judge<'_> {
    fn find(&mut self, code: &'static str, detail: impl Into<String>) {
        self.findings.push(Finding {
            code,
            pid: self.process.pid,
            process: self.process.name.clone(),
            detail: detail.into(),
            fails: code != UNREADABLE || !self.allowed.unread,
        });
    }

    fn known<'b, T>(&mut self, what: &str, value: &'b Known<T>) -> Option<&'b T> {
        if let Known::Unread(why) = value {
            self.find(UNREADABLE, format!("{what}: {why}"));
        }
        value.read()
    }

    fn process(&mut self, expectation: &Expectation) {
        let process = self.process;
        if let Some(threads) = self.known("threads", &process.threads) {
            threads.iter().for_each(|thread| self.thread(expectation, thread));
        }
        if process.terminal != 0 {
            self.find("exposure.terminal", format!("terminal {:#x} controls it", process.terminal));
        }
        for listener in self.known("sockets", &process.listeners).into_iter().flatten() {
            if listener.kind != ListenerKind::Tcp && listener.kind != ListenerKind::Unix
                || !expectation.may_listen(&listener.address, &self.survey.installation)
            {
                self.find("exposure.listener", describe(listener));
            }
        }
        for connection in process.connections.read().into_iter().flatten().filter(|_| !expectation.connects) {
            let inward = process.listeners.read().into_iter().flatten().any(|listener| {
                listener.kind == ListenerKind::Tcp
                    && listener
                        .address
                        .rsplit_once(':')
                        .is_some_and(|(_, port)| port.parse() == Ok(connection.port))
            });
            if !inward {
                self.find(
                    "exposure.connection",
                    format!("to {} from port {}", connection.peer, connection.port),
                );
            }
        }
        for open in process.files.read().into_iter().flatten() {
            self.open(expectation, open);
        }
        if expectation.stands_in.is_none() {
            self.room();
        }
    }

    /// What is asked of rooms of the host, and not of what stands in for hardware.
    fn room(&mut self) {
        let process = self.process;
        self.known("open files", &process.files);
        // Of root's processes the kernel does not tell. Entering a sandbox makes them undumpable before the last
        // filter is on, and the number of filters is looked at.
        let root = process.threads.read().is_some_and(|threads| threads.iter().all(|it| it.users[1] == 0));
        if !root && self.known("whether it can be dumped", &process.dumpable) == Some(&true) {
            let scope =
                self.survey.ptrace_scope.map_or("without Yama".to_owned(), |scope| format!("Yama {scope}"));
            self.find(
                "exposure.dumpable",
                format!("others of its user may read it and take it over ({scope})"),
            );
        }
        let program = self.known("program", &process.program);
        let path = program.map(|path| path.to_string_lossy()).unwrap_or_default();
        if path.ends_with(DELETED) && !path.starts_with("/memfd:") {
            self.find("exposure.program", format!("{path}: another one is in its place, or none"));
        }
        for mapping in self.known("mappings", &process.executable).into_iter().flatten() {
            self.mapping(program.map(|path| path.as_path()), mapping);
        }
    }

    fn thread(&mut self, expectation: &Expectation, thread: &Status) {
        if thread.tracer != 0 {
            self.find("exposure.traced", format!("by process {}", thread.tracer));
        }
        let wanted = u32::try_from(expectation.filters).unwrap_or(u32::MAX);
        let own = thread.filters.saturating_sub(self.survey.inherited_filters);
        let filtered = wanted == 0 || (thread.seccomp == 2 && own >= wanted);
        if !filtered {
            self.find("exposure.filter", format!("{own} system-call filters of its own, {wanted} expected"));
        }
        if expectation.stands_in.is_some() {
            return;
        }
        let [real, effective, saved, files] = thread.users;
        if [effective, saved, files] != [real; 3] {
            self.find("exposure.identity", format!("users {:?} in one process", thread.users));
        }
        let sets = thread.capabilities;
        for (name, set) in [
            ("inheritable", sets.inheritable),
            ("permitted", sets.permitted & !expectation.capabilities),
            ("effective", sets.effective & !expectation.capabilities),
            ("ambient", sets.ambient),
            // What can never be given to a process that can gain nothing is no exposure.
            ("bounding", if thread.no_new_privs { 0 } else { sets.bounding }),
        ] {
            if set != 0 {
                self.find("exposure.capability", format!("{name} {set:#x}"));
            }
        }
        if !thread.no_new_privs {
            self.find("exposure.no-new-privs", "execve may give it more than it has");
        }
        if !filtered || expectation.executes {
            self.may_execute(thread.no_new_privs);
        }
    }

    fn may_execute(&mut self, no_new_privs: bool) {
        let survey = self.survey;
        if let Some(shell) = survey.shells.first() {
            self.find(
                "exposure.shell",
                format!("it may start {}, and {} in all", shell.display(), survey.shells.len()),
            );
        }
        let setuid = if no_new_privs { None } else { self.known("setuid programs", &survey.setuid) };
        if let Some((first, more)) = setuid.and_then(|programs| programs.split_first()) {
            self.find(
                "exposure.setuid",
                format!("it may start {}, and {} more", first.display(), more.len()),
            );
        }
    }

    /// Programs of the host are whole: what of one is executable is its image and what the kernel maps into everybody.
    fn mapping(&mut self, program: Option<&Path>, mapping: &Mapping) {
        let Mapping { file, writable, length } = mapping;
        let kernels = ["[vdso]", "[vsyscall]"].contains(&file.as_str());
        if *writable {
            self.find("exposure.writable-executable", format!("{length} bytes of {}", named(file)));
        } else if kernels || program == Some(Path::new(file)) {
        } else if file.is_empty() || file.starts_with('[') {
            self.find("exposure.executable-memory", format!("{length} bytes of {}", named(file)));
        } else {
            self.find("exposure.mapping", format!("{length} bytes of {file} are executable"));
        }
    }

    fn open(&mut self, expectation: &Expectation, open: &Open) {
        if open.is_terminal() {
            self.find("exposure.terminal", format!("{} is open", open.target));
        }
        let named = !open.is_path()
            || open.target == "/dev/null"
            || expectation.may_hold(&open.target, open.writable, &self.survey.installation);
        if expectation.stands_in.is_none() && !named {
            let how = if open.writable { "for writing" } else { "for reading" };
            self.find("exposure.file", format!("{} is open {how}", open.target));
        }
    }
}

fn named(file: &str) -> &str {
    if file.is_empty() { "anonymous memory" } else { file }
}

fn describe(listener: &Listener) -> String {
    format!("{:?} {}", listener.kind, listener.address).to_lowercase()
}

/// Sockets of processes whose descriptors could not be read: one of those must be allowed to have it.
fn ownerless(survey: &Survey, expected: &Expectations, allowed: Allowances, findings: &mut Vec<Finding>) {
    let mut find = |code, detail, fails| {
        findings.push(Finding { code, pid: 0, process: "(unknown)".to_owned(), detail, fails });
    };
    let listeners = match &survey.ownerless {
        Known::Read(listeners) => listeners,
        Known::Unread(why) => {
            return find(UNREADABLE, format!("sockets: {why}"), !allowed.unread);
        }
    };
    let dark: Vec<&Process> =
        survey.processes.iter().filter(|process| process.files.read().is_none()).collect();
    let users: Vec<u32> =
        dark.iter().filter_map(|process| Some(process.threads.read()?.first()?.users[1])).collect();
    for listener in listeners {
        let inside = Path::new(&listener.address).starts_with(&survey.installation);
        let maybe = inside || listener.user.is_some_and(|user| users.contains(&user));
        let named = dark.iter().filter_map(|process| expected.of(&process.name)).any(|expectation| {
            matches!(listener.kind, ListenerKind::Tcp | ListenerKind::Unix)
                && expectation.may_listen(&listener.address, &survey.installation)
        });
        if maybe && !named {
            find("exposure.listener", describe(listener), true);
        }
    }
}

#[cfg(test)]
mod tests;
