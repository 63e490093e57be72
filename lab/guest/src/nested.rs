//! An emulated machine with SVM, in which Debian's kernel runs programs of this tree: what needs a real kernel mode, or
//! hardware that is not here.

use crate::{
    Error,
    cpio::Archive,
    pulse::STILL,
    report::{Check, Line, Lines},
};
use parts::{Parts, Tool};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{ChildStdout, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

/// Its first process, before what it is for. Device files come from the kernel; the rest needs no writing.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmp /tmp
";

/// An emulated timer on a busy machine may be late for the kernel's check of it, which then panics. The counter is the
/// emulator's one clock, on all processors: without the word the kernel takes HPET for its clock, since the emulated
/// processor does not promise that, and KVM gives guests a counter that it has to mend at each turn.
const COMMAND_LINE: &str = "console=ttyS0 quiet no_timer_check tsc=reliable panic=-1 rdinit=/init";
/// The program that runs guests, and keeps watch in the machine.
const GUEST: &str = "azote-guest";
/// How many machines in which a processor stood still are given up before one is taken as it is.
const AGAIN: u32 = 2;

/// What is in it.
pub struct Machine<'a> {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Kernel modules, loaded in this order; below the folder of the kernel's.
    pub modules: &'a [&'a str],
    /// More of the kernel's command line.
    pub words: &'a str,
    /// More arguments of the emulator: devices.
    pub devices: &'a [String],
    /// Files, by name.
    pub files: &'a [(&'a str, &'a Path)],
    /// Programs, which need no libraries and lie in `/bin`.
    pub programs: &'a [PathBuf],
    /// What it does, as a line for its shell.
    pub command: &'a str,
}

/// What came of it.
pub struct Said {
    /// The checks on its console.
    pub checks: Vec<Check>,
    /// All lines.
    pub lines: Vec<String>,
    /// It came to its end by itself.
    pub ended: bool,
    /// How many machines before it were given up, because a processor of theirs stood still.
    pub anew: u32,
    /// How long it took.
    pub took: Duration,
}

impl Said {
    /// Whether one of its processors stood still: all else that was found is void.
    fn still(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with(STILL))
    }

    /// How long it took, and what was said if it was not `good`.
    pub fn text(&self, good: bool) -> String {
        let told = if good { String::new() } else { format!(": {}", self.lines.join(" | ")) };
        let told: String = told.chars().rev().take(2000).collect();
        let before = match self.anew {
            0 => String::new(),
            anew => format!(", after {anew} in which QEMU let a processor stand still"),
        };
        let told = told.chars().rev().collect::<String>();
        format!("{:.0} s in all{before}{told}", self.took.as_secs_f64())
    }
}

impl Machine<'_> {
    /// Runs until it turns itself off, or for as long as `limit`. Anew, if one of its processors stood still.
    pub fn run(&self, parts: &Parts, limit: Duration) -> Result<Said, Error> {
        again(|anew| self.once(parts, limit, anew))
    }

    fn once(&self, parts: &Parts, limit: Duration, anew: u32) -> Result<Said, Error> {
        let folder = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
        let initial = folder.path().join("initrd");
        fs::write(&initial, self.archive(parts)?)?;
        let mut qemu = parts.command(Tool::Qemu);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-machine", "q35"]);
        qemu.arg("-m").arg(self.memory_mib.to_string()).args(self.devices);
        qemu.arg("-kernel").arg(parts.kernel()).arg("-initrd").arg(&initial);
        qemu.arg("-append").arg(format!("{COMMAND_LINE} {}", self.words));
        // It tells there what its devices did wrong, as some are told to.
        let complaints = tempfile::NamedTempFile::new()?;
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.reopen()?);
        let mut child = qemu.spawn()?;
        let output = child.stdout.take().ok_or_else(|| Error::Unexpected("no output".to_owned()))?;
        let (begun, still) = (Instant::now(), AtomicBool::new(false));
        let (ended, mut lines) = scope(|scope| {
            let reader = scope.spawn(|| read(output, &still));
            while child.try_wait()?.is_none() && begun.elapsed() < limit && !still.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(100));
            }
            let ended = child.try_wait()?.is_some();
            if !ended {
                child.kill()?;
            }
            child.wait()?;
            Ok::<_, Error>((ended, reader.join().unwrap_or_default()))
        })?;
        lines.extend(fs::read_to_string(complaints.path())?.lines().map(str::to_owned));
        let check = |line: &String| match Line::parse(line) {
            Line::Check(check) => Some(check),
            _ => None,
        };
        let checks = lines.iter().filter_map(check).collect();
        Ok(Said { checks, lines, ended, anew, took: begun.elapsed() })
    }

    /// Its initial file system.
    pub(crate) fn archive(&self, parts: &Parts) -> Result<Vec<u8>, Error> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            archive.folder(folder)?;
        }
        archive.copy("bin/busybox", &parts.busybox())?;
        for (name, file) in self.files {
            archive.copy(name, file)?;
        }
        let mut init = INIT.to_owned();
        for module in self.modules {
            let name = module.rsplit('/').next().unwrap_or(module);
            archive.copy(name, &parts.kernel_modules().join(module))?;
            init += &format!("/bin/busybox insmod /{name}\n");
        }
        for program in self.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            archive.copy(&format!("bin/{name}"), program)?;
            if name == GUEST {
                init += &format!("/bin/{GUEST} pulse &\n");
            }
        }
        init += &format!("echo\n{}\n/bin/busybox poweroff -f\n", self.command);
        archive.file("init", init.as_bytes())?;
        Ok(archive.finish()?)
    }
}

/// The first machine whose processors kept time, or else the last one.
fn again(mut run: impl FnMut(u32) -> Result<Said, Error>) -> Result<Said, Error> {
    for anew in 0..AGAIN {
        let said = run(anew)?;
        if !said.still() {
            return Ok(said);
        }
    }
    run(AGAIN)
}

/// All lines of its console; `still` becomes true at the first that says so.
fn read(mut output: ChildStdout, still: &AtomicBool) -> Vec<String> {
    let (mut lines, mut all, mut piece) = (Lines::default(), Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = output.read(&mut piece) {
        let new = lines.take(&piece[..count]);
        still.fetch_or(new.iter().any(|line| line.starts_with(STILL)), Ordering::Relaxed);
        all.extend(new);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str, anew: u32) -> Said {
        let lines = vec!["linux-ready ok 10 s".to_owned(), line.to_owned()];
        Said { checks: Vec::new(), lines, ended: true, anew, took: Duration::from_secs(1) }
    }

    #[test]
    fn only_a_machine_that_stood_still_is_run_anew() {
        let still = format!("{STILL}processor 1, 5.2 s");
        for (stood, runs) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
            let mut count = 0;
            let last = again(|anew| {
                count += 1;
                Ok(said(if anew < stood { &still } else { "linux-hotplug FAIL" }, anew))
            });
            let last = last.unwrap();
            assert_eq!((count, last.anew), (runs, runs - 1));
            assert_eq!(last.text(true).contains("stand still"), runs > 1);
        }
    }
}
