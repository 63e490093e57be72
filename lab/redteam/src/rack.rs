//! The installation's processes, as somebody with the machine's power switch and disks has them: stopped, killed and
//! started again, with other arguments or with a shim inside.

use crate::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that a process may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes of one installation.
pub(crate) struct Rack {
    pub(crate) state: PathBuf,
    programs: PathBuf,
    children: Vec<Child>,
}

/// How a process was started.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Unit {
    /// The value of a flag.
    pub(crate) fn get(&self, flag: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|word| word == flag)?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    /// Gives a flag this value, or adds it.
    pub(crate) fn set(mut self, flag: &str, value: &str) -> Self {
        match self.arguments.iter().position(|word| word == flag) {
            Some(at) if at + 1 < self.arguments.len() => self.arguments[at + 1] = value.to_owned(),
            _ => self.arguments.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }

    /// Adds a flag beside those that are there.
    pub(crate) fn add(mut self, flag: &str, value: &str) -> Self {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds an environment variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Rack {
    /// `azote up` in a fresh folder.
    pub(crate) fn up(programs: &Path, state: &Path) -> Outcome<Self> {
        let rack = Self { state: state.to_owned(), programs: programs.to_owned(), children: Vec::new() };
        rack.azote(&["up"])?;
        Ok(rack)
    }

    /// Runs `azote` with `--json`; what it printed.
    pub(crate) fn azote(&self, arguments: &[&str]) -> Outcome<serde_json::Value> {
        let what = format!("azote {}", arguments.join(" "));
        let output = Command::new(self.programs.join("azote"))
            .arg("--json")
            .arg("--state")
            .arg(&self.state)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{what}: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("{what}: {}{}", said.trim(), String::from_utf8_lossy(&output.stderr).trim()));
        }
        serde_json::from_str(&said).map_err(|e| format!("{what}: {e}: {said}"))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.state.join("run").join(format!("{name}.pid"))
    }

    fn pid(&self, name: &str) -> Outcome<i32> {
        let path = self.record(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let pid = text.split(' ').next().and_then(|pid| pid.parse().ok());
        pid.ok_or_else(|| format!("{}: no number of a process", path.display()))
    }

    /// How a running process was started. Once it listens, it will listen at the same address again.
    pub(crate) fn unit(&self, name: &str) -> Outcome<Unit> {
        let path = format!("/proc/{}/cmdline", self.pid(name)?);
        let bytes = fs::read(&path).map_err(|e| format!("{name} does not run: {path}: {e}"))?;
        let arguments = bytes.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut arguments: Vec<String> = arguments.collect();
        arguments.pop();
        let unit = Unit { name: name.to_owned(), arguments, environment: Vec::new() };
        let address = fs::read_to_string(self.state.join("run").join(format!("{name}.address")));
        Ok(match address {
            Ok(address) => unit.set("--listen", address.trim()),
            Err(_) => unit,
        })
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, name: &str, signal: Signal) -> Outcome<()> {
        let pid = self.pid(name)?;
        let start = Instant::now();
        let process = Pid::from_raw(pid).ok_or("not a process")?;
        kill_process(process, signal).map_err(|e| format!("{name}: {e}"))?;
        while running(pid) {
            self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            if start.elapsed() > PATIENCE {
                return Err(format!("{name} did not end"));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts a process and waits until it listens; what it said if it ended instead.
    pub(crate) fn start(&mut self, unit: &Unit) -> Outcome<()> {
        let run = self.state.join("run");
        let log = run.join(format!("{}.log", unit.name));
        let address = run.join(format!("{}.address", unit.name));
        let _ = fs::remove_file(&address);
        let before = fs::metadata(&log).map_or(0, |log| log.len());
        let file = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        let (program, arguments) = unit.arguments.split_first().ok_or("no program")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(unit.environment.iter().cloned());
        let started = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let mut child = started.map_err(|e| format!("{program}: {e}"))?;
        let start = Instant::now();
        let ended = loop {
            if address.exists() {
                break None;
            }
            if let Ok(Some(status)) = child.try_wait() {
                break Some(format!("{} ended ({status})", unit.name));
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                break Some(format!("{} is not ready", unit.name));
            }
            sleep(Duration::from_millis(5));
        };
        if let Some(why) = ended {
            let said = fs::read(&log).unwrap_or_default();
            let from = usize::try_from(before).unwrap_or(0).min(said.len());
            return Err(format!("{why}: {}", String::from_utf8_lossy(&said[from..]).trim()));
        }
        let pid = i32::try_from(child.id()).map_err(|e| e.to_string())?;
        let started = moment(pid).ok_or_else(|| format!("{} ended at once", unit.name))?;
        fs::write(self.record(&unit.name), format!("{pid} {started}\n")).map_err(|e| e.to_string())?;
        self.children.push(child);
        Ok(())
    }

    /// Ends a process and starts it as it was, or as `change` wants it.
    pub(crate) fn again(
        &mut self,
        name: &str,
        signal: Signal,
        change: impl FnOnce(Unit) -> Unit,
    ) -> Outcome<()> {
        let unit = change(self.unit(name)?);
        self.end(name, signal)?;
        self.start(&unit)
    }

    /// `azote down`.
    pub(crate) fn down(&mut self) -> Outcome<()> {
        let down = self.azote(&["down"]).map(drop);
        for child in &mut self.children {
            let _ = child.wait();
        }
        down
    }
}

/// Fields 3 and 22 of `proc_pid_stat(5)`.
fn stat(pid: i32) -> Option<(char, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?.chars().next()?;
    Some((state, rest.nth(18)?.to_owned()))
}

fn running(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// When a process started, as `azote` writes it down.
fn moment(pid: i32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", boot.trim(), stat(pid)?.1))
}
