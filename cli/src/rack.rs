//! Starts and stops the processes of one installation: what a rack's power cord and an init system do. It
//! hands them no secret and reads none.

use crate::{interrupt, place::Place};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_secs(30);
/// How long a process may take to stop when asked.
const STOP: Duration = Duration::from_secs(10);

/// Why the rack could not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RackError {
    /// A program is not where it should be.
    #[error("{0} is missing: build it with `make` in the source tree, or install the whole package")]
    NoProgram(PathBuf),
    /// It ended or was not ready in time.
    #[error("{name} did not become ready; the end of its log, {log}:\n{tail}")]
    NotReady { name: String, log: String, tail: String },
    /// It runs already.
    #[error("{0} runs already: `azote down` first")]
    Runs(String),
    /// Somebody wants it all to end.
    #[error("interrupted: what this command started is stopped again")]
    Interrupted,
    /// It does not stop.
    #[error("{0} did not stop within {seconds} s", seconds = STOP.as_secs())]
    NotStopped(String),
    /// The system refused.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl RackError {
    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoProgram(_) => "rack.no-program",
            Self::NotReady { .. } => "rack.not-ready",
            Self::Runs(_) => "rack.runs",
            Self::Interrupted => "interrupted",
            Self::NotStopped(_) => "rack.not-stopped",
            Self::Io(..) => "rack.failed",
        }
    }
}

/// One process of an installation.
pub(crate) struct Unit<'a> {
    place: &'a Place,
    name: &'a str,
}

/// A process that is known by number and by the moment it started, so that a number used again is not
/// mistaken for it.
struct Running {
    pid: Pid,
}

impl<'a> Unit<'a> {
    /// The process called `name`.
    pub(crate) fn new(place: &'a Place, name: &'a str) -> Self {
        Self { place, name }
    }

    fn record(&self) -> PathBuf {
        self.place.path("run").join(format!("{}.pid", self.name))
    }

    /// Its log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.place.path("run").join(format!("{}.log", self.name))
    }

    fn running(&self) -> Option<Running> {
        let text = fs::read_to_string(self.record()).ok()?;
        let (pid, started) = text.trim_end().split_once(' ')?;
        let pid: i32 = pid.parse().ok()?;
        (start_time(pid)? == started).then_some(Running { pid: Pid::from_raw(pid)? })
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// Starts it, away from the terminal, and waits until `ready` says so. What does not become ready is
    /// ended again.
    pub(crate) fn start(&self, command: &mut Command, ready: impl Fn() -> bool) -> Result<(), RackError> {
        let io = |error| RackError::Io(self.name.to_owned(), error);
        if self.is_running() {
            return Err(RackError::Runs(self.name.to_owned()));
        }
        let log = File::create(self.log()).map_err(io)?;
        let errors = log.try_clone().map_err(io)?;
        // A session of its own: no process of a host has a terminal, not even the one that it was started from.
        let mut detached = Command::new("setsid");
        detached.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(name, value),
                None => detached.env_remove(name),
            };
        }
        let mut child = detached.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(io)?;
        let result = self.watch(&mut child, ready);
        if result.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(self.record());
        }
        result
    }

    fn watch(&self, child: &mut Child, ready: impl Fn() -> bool) -> Result<(), RackError> {
        let io = |error| RackError::Io(self.name.to_owned(), error);
        let pid = i32::try_from(child.id()).map_err(|e| io(io::Error::other(e)))?;
        let started = start_time(pid).unwrap_or_default();
        fs::write(self.record(), format!("{pid} {started}\n")).map_err(io)?;
        let deadline = Instant::now() + READY;
        while !ready() {
            if interrupt::asked() {
                return Err(RackError::Interrupted);
            }
            if child.try_wait().map_err(io)?.is_some() || Instant::now() > deadline {
                return Err(self.not_ready());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn not_ready(&self) -> RackError {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        RackError::NotReady { name: self.name.to_owned(), log: self.log().display().to_string(), tail }
    }

    /// Stops it if it runs: asks first, then kills.
    pub(crate) fn stop(&self) -> Result<bool, RackError> {
        let Some(running) = self.running() else { return Ok(false) };
        let io = |error: rustix::io::Errno| RackError::Io(self.name.to_owned(), error.into());
        let process = match pidfd_open(running.pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(io(error)),
        };
        for signal in [Signal::TERM, Signal::KILL] {
            match pidfd_send_signal(&process, signal) {
                Ok(()) => {}
                Err(rustix::io::Errno::SRCH) => break,
                Err(error) => return Err(io(error)),
            }
            let deadline = Instant::now() + STOP;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !self.is_running() {
                break;
            }
        }
        if self.is_running() {
            return Err(RackError::NotStopped(self.name.to_owned()));
        }
        // The next start writes it anew.
        let _ = fs::remove_file(self.record());
        Ok(true)
    }
}

/// The moment a process started: which boot of the system, and clock ticks since then (`proc_pid_stat(5)`,
/// field 22); none for a process that has ended.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold blanks and brackets: count from its end.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(rest.next()?, "Z" | "X") {
        return None;
    }
    let ticks = rest.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {ticks}", boot.trim()))
}

/// Where our programs are: beside this one, where the build and a package put them.
pub(crate) fn programs() -> Result<PathBuf, RackError> {
    let here = std::env::current_exe().map_err(|e| RackError::Io("this program".to_owned(), e))?;
    Ok(here.parent().unwrap_or(Path::new("/")).to_owned())
}

/// A program of ours.
pub(crate) fn program(name: &str) -> Result<PathBuf, RackError> {
    let path = programs()?.join(name);
    if path.exists() { Ok(path) } else { Err(RackError::NoProgram(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::new(scratch.path()).unwrap();
        place.folder("run").unwrap();
        (scratch, place)
    }

    #[test]
    fn a_process_is_started_known_and_stopped() {
        let (_scratch, place) = place();
        let unit = Unit::new(&place, "sleeper");
        unit.start(Command::new("sleep").arg("60"), || true).unwrap();
        let pid = unit.running().unwrap().pid.as_raw_nonzero().get();
        assert!(unit.is_running());
        let deadline = Instant::now() + READY;
        // From proc, not getsid(): a session that began outside of this PID namespace has number 0 (proc_pid_stat(5)).
        let session = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned()
        };
        while session() != pid.to_string() {
            assert!(Instant::now() < deadline, "it keeps the terminal that it was started from");
        }
        // The test is its parent, as `azote up` is until it ends: reap it so that it does not stay a zombie.
        assert!(unit.stop().unwrap());
        assert!(!unit.is_running() && start_time(pid).is_none());
        assert!(!unit.stop().unwrap());
    }

    #[test]
    fn a_process_that_ends_at_once_is_reported_with_its_last_words() {
        let (_scratch, place) = place();
        let unit = Unit::new(&place, "brief");
        let error =
            unit.start(Command::new("sh").args(["-c", "echo last words >&2; exit 3"]), || false).unwrap_err();
        assert!(error.to_string().contains("last words"), "{error}");
    }

    #[test]
    fn a_process_that_is_never_ready_is_not_left_behind() {
        let (_scratch, place) = place();
        let unit = Unit::new(&place, "endless");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        fs::write(unit.record(), format!("{pid} {}\n", start_time(pid).unwrap())).unwrap();
        assert_eq!(unit.start(&mut Command::new("true"), || true).unwrap_err().code(), "rack.runs");
        assert!(unit.is_running(), "a second start leaves the first alone");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(unit.start(&mut Command::new("true"), || false).is_err());
        assert!(!unit.record().exists(), "its record would name a dead process");
    }

    #[test]
    fn a_number_that_was_used_again_is_not_our_process() {
        let (_scratch, place) = place();
        let unit = Unit::new(&place, "other");
        let mine = i32::try_from(std::process::id()).unwrap();
        let ticks = start_time(mine).unwrap().rsplit_once(' ').unwrap().1.to_owned();
        fs::write(unit.record(), format!("{mine} another-boot {ticks}\n")).unwrap();
        assert!(!unit.is_running());
        assert!(!unit.stop().unwrap());
    }
}
