//! The installation's processes, as somebody with the machine's power switch and disks has them: stopped, killed and
//! started again, with other arguments or with a shim inside.

use crate::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that a process may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(20);

const CONTROLLER: &str = "controller";
const TPM: &str = "tpm-host";

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
}

impl Unit {
    /// The same process, started by other words.
    pub(crate) fn by(&self, arguments: Vec<String>) -> Self {
        Self { name: self.name.clone(), arguments }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The words that start it.
    pub(crate) fn words(&self) -> &[String] {
        &self.arguments
    }

    /// What a controller is told behind the words for boot ROM and stage 1.
    pub(crate) fn behind_the_chain(&self) -> &[String] {
        let ends = self.arguments.iter().enumerate().filter(|(_, word)| *word == "--");
        ends.map(|(at, _)| at + 1).nth(1).and_then(|at| self.arguments.get(at..)).unwrap_or_default()
    }

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
}

impl Rack {
    /// `azote up` in a fresh folder.
    pub(crate) fn up(programs: &Path, state: &Path, more: &[&str]) -> Outcome<Self> {
        let rack = Self { state: state.to_owned(), programs: programs.to_owned(), children: Vec::new() };
        rack.azote(&[&["up"], more].concat())?;
        Ok(rack)
    }

    /// Runs `azote` with `--json`; what it printed.
    pub(crate) fn azote(&self, arguments: &[&str]) -> Outcome<serde_json::Value> {
        let said = self.azote_said(arguments)?;
        if said["error"].is_null() { Ok(said) } else { Err(format!("azote {}: {said}", arguments.join(" "))) }
    }

    /// The same, a refusal included.
    pub(crate) fn azote_said(&self, arguments: &[&str]) -> Outcome<serde_json::Value> {
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
        let failed = |e| format!("{what}: {e}: {said}{}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_str(&said).map_err(failed)
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

    /// Whether it runs.
    pub(crate) fn runs(&self, name: &str) -> bool {
        let record = fs::read_to_string(self.record(name)).unwrap_or_default();
        let noted = record.trim_end().split_once(' ');
        self.pid(name)
            .is_ok_and(|pid| running(pid) && moment(pid).as_deref() == noted.map(|(_, moment)| moment))
    }

    /// How a running process was started. Once it listens, it will listen at the same address again.
    pub(crate) fn unit(&self, name: &str) -> Outcome<Unit> {
        let path = format!("/proc/{}/cmdline", self.pid(name)?);
        let bytes = fs::read(&path).map_err(|e| format!("{name} does not run: {path}: {e}"))?;
        let arguments = bytes.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut arguments: Vec<String> = arguments.collect();
        arguments.pop();
        if name == CONTROLLER {
            arguments = self.chain(arguments.get(1..).unwrap_or_default());
        }
        let unit = Unit { name: name.to_owned(), arguments };
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

    /// A start of the controller as a host's board does it: by boot ROM and stage 1.
    pub(crate) fn chain(&self, words: &[String]) -> Vec<String> {
        let at = |name: &str| self.state.join(name).display().to_string();
        let (tpm, report, boot) = (at("run/tpm-host"), at("run/boot-report"), at("host/boot"));
        let rom = self.programs.join("azote-boot-rom").display().to_string();
        let (fuse, stage1) = (at("fuse"), at("host/boot/stage-1"));
        let rom = [&rom, "--fuse", &fuse, "--tpm", &tpm, "--stage1", &stage1, "--report", &report, "--"];
        let stage1 = ["--tpm", &tpm, "--release", &boot, "--report", &report, "--"];
        rom.into_iter().chain(stage1).map(str::to_owned).chain(words.iter().cloned()).collect()
    }

    /// Power off and on for controller and TPM: what was measured is gone.
    pub(crate) fn power_cycle(&mut self) -> Outcome<()> {
        let unit = self.unit(TPM)?;
        self.end(TPM, Signal::TERM)?;
        self.spawn(&unit, &self.state.join("run").join(TPM))
    }

    /// Makes a release of these programs, signed by the lab's own root key, and has the host take it. The controller
    /// must not run.
    pub(crate) fn install(&mut self, programs: &Path, out: &Path) -> Outcome<()> {
        let state = self.state.clone();
        let at = |name: &str| state.join(name).display().to_string();
        let (key, from, release) =
            (at("pki/release"), programs.display().to_string(), out.display().to_string());
        self.azote(&["release", "make", "--root-key", &key, "--programs", &from, "--out", &release])?;
        self.power_cycle()?;
        self.take(out)
    }

    /// Has the host take a release, after a power cycle.
    pub(crate) fn take(&self, release: &Path) -> Outcome<()> {
        let at = |name: &str| self.state.join(name).display().to_string();
        let release = release.display().to_string();
        let [state, tpm, chip, report] = ["host", "run/tpm-host", "run/chip", "run/boot-report"].map(at);
        let home = ["update", "--state", &state, "--tpm", &tpm, "--chip", &chip];
        let words = [&home[..], &["--report", &report, "--release", &release]].concat();
        let chain = self.chain(&words.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let (program, arguments) = chain.split_first().ok_or("no program")?;
        let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let done = done.map_err(|e| format!("{program}: {e}"))?;
        let said = String::from_utf8_lossy(&done.stderr);
        if done.status.success() {
            Ok(())
        } else {
            Err(format!("the host takes no release: {}", said.trim()))
        }
    }

    /// Starts a process and waits until it listens; what it said if it ended instead. The controller starts with a
    /// power cycle.
    pub(crate) fn start(&mut self, unit: &Unit) -> Outcome<()> {
        if unit.name == CONTROLLER {
            self.power_cycle()?;
        }
        self.spawn(unit, &self.state.join("run").join(format!("{}.address", unit.name)))
    }

    /// Starts a process and waits until a file of its making is there.
    pub(crate) fn spawn(&mut self, unit: &Unit, ready: &Path) -> Outcome<()> {
        let log = self.state.join("run").join(format!("{}.log", unit.name));
        let _ = fs::remove_file(ready);
        let before = fs::metadata(&log).map_or(0, |log| log.len());
        let file = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        let (program, arguments) = unit.arguments.split_first().ok_or("no program")?;
        let mut command = Command::new(program);
        command.args(arguments);
        let started = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let mut child = started.map_err(|e| format!("{program}: {e}"))?;
        let start = Instant::now();
        let ended = loop {
            // A TPM's socket is there before anybody listens on it, and the boot ROM does not ask twice.
            let is_ready = if unit.name == TPM { UnixStream::connect(ready).is_ok() } else { ready.exists() };
            if is_ready {
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
