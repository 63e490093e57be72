//! A host whose disk, flash, fuse and TPM are put back as they were before each change. Its control plane goes on.

use super::Seen;
use crate::{
    Outcome,
    rack::{Rack, Unit},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use wire::{board, chip};

const PATIENCE: Duration = Duration::from_secs(5);
/// Who refuses a host that is in service.
pub(crate) const NOBODY: &str = "nobody";
const REPORT: &str = "run/boot-report";
/// What a host consists of.
const PARTS: [&str; 4] = ["host", "tpm-host", "flash", "fuse"];
/// In the order in which they are powered. Each makes a socket of its name last.
const HARDWARE: [&str; 3] = ["tpm-host", "chip", "board"];
const SOCKETS: [&str; 7] = ["firmware", "line", "cpu-bus", "bmc-bus", "console", "chip", "board"];

pub(crate) struct Host {
    rack: Rack,
    programs: PathBuf,
    hardware: Vec<Unit>,
    controller: Unit,
    kept: PathBuf,
    scratch: PathBuf,
    powered: bool,
}

impl Host {
    /// `azote up` in a fresh folder, and the host kept as it is then.
    pub(crate) fn new(programs: &Path, folder: &Path, more: &[&str]) -> Outcome<Self> {
        let rack = Rack::up(programs, &folder.join("s"), more)?;
        let hardware = HARDWARE.iter().map(|name| rack.unit(name)).collect::<Outcome<_>>()?;
        let controller = rack.unit("controller")?;
        let [kept, scratch] = ["kept", "scratch"].map(|name| folder.join(name));
        fs::create_dir(&scratch).map_err(|e| e.to_string())?;
        let programs = programs.to_owned();
        let mut host = Self { rack, programs, hardware, controller, kept, scratch, powered: true };
        host.stop()?;
        host.keep(&host.kept.clone())?;
        Ok(host)
    }

    /// Does something with another host, of an installation of its own.
    pub(crate) fn another<T>(&self, more: &[&str], act: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        let folder = tempfile::Builder::new().prefix("azote-rt-").tempdir().map_err(|e| e.to_string())?;
        let mut other = Self::new(&self.programs, folder.path(), more)?;
        let done = act(&mut other);
        other.down()?;
        done
    }

    /// A path in its state folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.rack.state.join(name)
    }

    /// A path for what a case makes; nothing is there.
    pub(crate) fn scratch(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.scratch.join(name);
        remove(&path).map(|()| path)
    }

    /// Runs `azote` with `--json`.
    pub(crate) fn azote(&self, words: &[&str]) -> Outcome<Value> {
        self.rack.azote(words)
    }

    /// The same, of which a refusal is wanted.
    pub(crate) fn refused(&self, words: &[&str]) -> Outcome<(String, String)> {
        let said = self.rack.azote_said(words)?;
        let text = |name: &str| said["error"][name].as_str().unwrap_or_default().to_owned();
        Ok((text("code"), text("message")))
    }

    /// Copies the host, which must not run.
    pub(crate) fn keep(&self, to: &Path) -> Outcome<()> {
        remove(to)?;
        fs::create_dir(to).map_err(|e| e.to_string())?;
        PARTS.iter().try_for_each(|part| copy(&self.path(part), &to.join(part)))
    }

    /// Puts a part of a copy in the place of the host's.
    pub(crate) fn put(&self, from: &Path, part: &str) -> Outcome<()> {
        remove(&self.path(part))?;
        copy(&from.join(part), &self.path(part))
    }

    /// Puts everything back as it was at first.
    pub(crate) fn restore(&self) -> Outcome<()> {
        PARTS.iter().try_for_each(|part| self.put(&self.kept, part))
    }

    /// Flips a bit of a byte.
    pub(crate) fn flip(&self, name: &str, at: usize) -> Outcome<()> {
        let path = self.path(name);
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut bytes = fs::read(&path).map_err(failed)?;
        let at = at.min(bytes.len().saturating_sub(1));
        *bytes.get_mut(at).ok_or_else(|| format!("{}: it is empty", path.display()))? ^= 1;
        let mode = fs::metadata(&path).map_err(failed)?.permissions();
        fs::remove_file(&path).map_err(failed)?;
        fs::write(&path, bytes).map_err(failed)?;
        fs::set_permissions(&path, mode).map_err(failed)
    }

    /// The images of a release folder: kind and SHA-256.
    pub(crate) fn images(&self, folder: &str) -> Outcome<Vec<(String, String)>> {
        let (key, folder) = (self.shown("pki/release"), self.shown(folder));
        let release = self.azote(&["release", "show", &folder, "--root-key", &key])?;
        let text = |image: &Value, name: &str| image[name].as_str().unwrap_or_default().to_owned();
        let images = release["images"].as_array().ok_or("the release has no images")?;
        Ok(images.iter().map(|image| (text(image, "kind"), text(image, "sha256"))).collect())
    }

    /// A path in its state folder, as text.
    pub(crate) fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Power for TPM, chip and main board.
    pub(crate) fn power(&mut self) -> Outcome<()> {
        self.power_tpm()?;
        self.power_board()
    }

    /// Power for the TPM.
    pub(crate) fn power_tpm(&mut self) -> Outcome<()> {
        self.power_on(&HARDWARE[..1])
    }

    /// Power for chip and main board.
    pub(crate) fn power_board(&mut self) -> Outcome<()> {
        for name in SOCKETS {
            remove(&self.path("run").join(name))?;
        }
        // What an earlier chip said.
        remove(&self.path("run/chip.log"))?;
        self.power_on(&HARDWARE[1..])
    }

    fn power_on(&mut self, names: &[&str]) -> Outcome<()> {
        self.powered = true;
        for name in names {
            let unit = self.hardware.iter().find(|unit| unit.name() == *name).ok_or("no such unit")?;
            self.rack.spawn(&unit.clone(), &self.path("run").join(name))?;
        }
        Ok(())
    }

    /// Power, and a start by boot ROM, stage 1 and controller.
    pub(crate) fn start(&mut self) -> Outcome<Seen> {
        self.power()?;
        self.start_powered(&self.controller.clone())
    }

    /// A start that must succeed, and goes on.
    pub(crate) fn spawn(&mut self, controller: &Unit) -> Outcome<()> {
        self.rack.spawn(controller, &self.path("run/controller.address"))
    }

    /// A start of a host that has power.
    pub(crate) fn start_powered(&mut self, controller: &Unit) -> Outcome<Seen> {
        remove(&self.path(REPORT))?;
        let started = self.rack.spawn(controller, &self.path("run/controller.address"));
        let (stage, code, message) = match started {
            Ok(()) => self.status()?,
            Err(said) => self.report(&said)?,
        };
        let held = self.held()?;
        Ok(Seen { stage, code, message, held })
    }

    /// Offers a release as an update, which must be refused, to a host that has power.
    pub(crate) fn offer(&mut self, release: &Path) -> Outcome<Seen> {
        remove(&self.path(REPORT))?;
        let Err(said) = self.rack.take(release) else { return Err("the host takes it".to_owned()) };
        let (stage, code, message) = self.report(&said)?;
        let held = self.held()?;
        Ok(Seen { stage, code, message, held })
    }

    /// The report of the stage that refused; `said` is what else is known.
    fn report(&self, said: &str) -> Outcome<(String, String, String)> {
        let text = fs::read_to_string(self.path(REPORT)).map_err(|_| format!("no report: {said}"))?;
        let report: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        Ok((text("stage"), text("code"), format!("{}: {}", text("entry"), text("message"))))
    }

    /// What a controller that answers says of the host.
    fn status(&self) -> Outcome<(String, String, String)> {
        let status = self.azote(&["status"])?;
        let text = |name: &str| status["out_of_service"][name].as_str().unwrap_or_default().to_owned();
        if status["in_service"] == true {
            return Ok((NOBODY.to_owned(), "in service".to_owned(), String::new()));
        }
        Ok(("controller".to_owned(), text("code"), text("message")))
    }

    /// Whether the chip holds every line and the main board never ran. The controller, if there is one, ends first: the
    /// chip keeps its lines as they are.
    pub(crate) fn held(&mut self) -> Outcome<bool> {
        self.end("controller")?;
        let failed = |error: &dyn std::fmt::Display| format!("chip or board: {error}");
        let run = self.path("run");
        // Both serve one after the other, and may not have seen yet that the controller has gone.
        let lines = patiently(|| {
            let chip = wire::connect::<chip::Request, chip::Reply>(&run.join("chip"))?;
            chip.call(&chip::Request::Status, &[])
        });
        let board = patiently(|| {
            let board = wire::connect::<board::Request, board::Reply>(&run.join("board"))?;
            board.call(&board::Request::Status, &[])
        });
        let (lines, board) = (lines.map_err(|e| failed(&e))?, board.map_err(|e| failed(&e))?);
        let held = matches!(&lines, chip::Reply::Status { lines, .. } if *lines == chip::Lines::HELD);
        let never = matches!(&board, board::Reply::Status(status) if status.boots == 0);
        if held == never { Ok(held) } else { Err(format!("they do not agree: {lines:?}, {board:?}")) }
    }

    /// Takes a release and, if it is taken, runs it once.
    pub(crate) fn update(&mut self, more: &[&str]) -> Outcome<Seen> {
        let out = self.scratch("release")?;
        self.make(&out, more)?;
        self.power()?;
        self.rack.take(&out)?;
        self.stop()?;
        self.start()
    }

    /// Makes a release with the lab's own root key.
    pub(crate) fn make(&self, out: &Path, more: &[&str]) -> Outcome<()> {
        let (key, out) = (self.shown("pki/release"), out.display().to_string());
        let words = ["release", "make", "--root-key", &key, "--out", &out];
        self.azote(&[&words, more].concat()).map(drop)
    }

    /// How the controller is started.
    pub(crate) fn controller(&self) -> &Unit {
        &self.controller
    }

    fn end(&mut self, name: &str) -> Outcome<()> {
        if self.rack.runs(name) { self.rack.end(name, Signal::KILL) } else { Ok(()) }
    }

    /// No power.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        self.end("controller")?;
        if std::mem::take(&mut self.powered) {
            for name in HARDWARE.iter().rev() {
                if self.rack.runs(name) {
                    self.rack.end(name, Signal::TERM)?;
                }
            }
        }
        Ok(())
    }

    /// The control plane too.
    pub(crate) fn down(&mut self) -> Outcome<()> {
        self.stop()?;
        self.rack.down()
    }
}

/// Tries again for some seconds.
fn patiently<T, E>(attempt: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < PATIENCE => sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
}

/// Removes a file, a link, a socket or a folder, if it is there.
pub(crate) fn remove(path: &Path) -> Outcome<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(|e| format!("{}: {e}", path.display()))
}

/// Copies a file, a link or a folder with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    let kind = fs::symlink_metadata(from).map_err(failed)?;
    if kind.is_symlink() {
        return symlink(fs::read_link(from).map_err(failed)?, to).map_err(failed);
    }
    if !kind.is_dir() {
        fs::copy(from, to).map_err(failed)?;
        return Ok(());
    }
    fs::create_dir(to).map_err(failed)?;
    fs::set_permissions(to, kind.permissions()).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Writes a file in the place of another.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    remove(path)?;
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|e| format!("{}: {e}", path.display()))
}
