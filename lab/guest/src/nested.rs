//! An emulated machine with SVM, in which Debian's kernel runs programs of this tree: what needs a real kernel mode, or
//! hardware that is not here.

use crate::{
    Error,
    cpio::Archive,
    pulse::STILL,
    report::{Check, Line, Lines, Verdict},
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
/// What a machine says last. One whose kernel panics ends too, but not so.
const END: &str = "azote-guest: end";
/// How long its last words take to leave it, in seconds: no emulated serial port is as slow.
const LEAVE: &str = "0.2";
/// How many machines that came to no good end are given up before one is taken as it is.
const AGAIN: usize = 2;
/// How much is told of each, in characters.
const TOLD: usize = 400;

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
    /// It came to its own end.
    pub ended: bool,
    /// What was wrong with each that was given up before it.
    pub before: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Said {
    /// What was wrong with it, if anything: a processor that stood still, checks, or that it did not end.
    fn wrong(&self) -> Option<String> {
        let failed = self.checks.iter().filter(|check| check.verdict == Verdict::Failed);
        let mut wrong: Vec<_> = self.lines.iter().filter(|line| line.starts_with(STILL)).cloned().collect();
        wrong.extend(failed.map(|check| format!("{}: {}", check.name, check.text)));
        wrong.extend(
            (!self.ended).then(|| format!("no end, last: {}", self.lines.last().map_or("", String::as_str))),
        );
        (!wrong.is_empty()).then(|| wrong.join(" | ").chars().take(TOLD).collect())
    }

    /// How long it took, which were given up before it, and what was said if it was not `good`.
    pub fn text(&self, good: bool) -> String {
        let told = if good { String::new() } else { format!(": {}", self.lines.join(" | ")) };
        let told: String = told.chars().rev().take(2000).collect();
        let told = told.chars().rev().collect::<String>();
        let before: String = self.before.iter().map(|wrong| format!(", given up before: {wrong}")).collect();
        format!("{:.0} s in all{before}{told}", self.took.as_secs_f64())
    }
}

impl Machine<'_> {
    /// Runs until it turns itself off, or for as long as `limit`. What came to no good end is run anew, and told: QEMU's
    /// SVM on a busy machine loses a timer now and then ([`crate::pulse`]), or the kernel of a machine finds its memory
    /// spoilt, a guest's or its own. What does not work by our own fault fails each time.
    pub fn run(&self, parts: &Parts, limit: Duration) -> Result<Said, Error> {
        again(|| self.once(parts, limit))
    }

    fn once(&self, parts: &Parts, limit: Duration) -> Result<Said, Error> {
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
        let mut lines = scope(|scope| {
            let reader = scope.spawn(|| read(output, &still));
            while child.try_wait()?.is_none() && begun.elapsed() < limit && !still.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(100));
            }
            // One that has ended already is none the worse for it.
            child.kill()?;
            child.wait()?;
            Ok::<_, Error>(reader.join().unwrap_or_default())
        })?;
        let ended = lines.iter().any(|line| line == END);
        lines.extend(fs::read_to_string(complaints.path())?.lines().map(str::to_owned));
        let check = |line: &String| match Line::parse(line) {
            Line::Check(check) => Some(check),
            _ => None,
        };
        let checks = lines.iter().filter_map(check).collect();
        Ok(Said { checks, lines, ended, before: Vec::new(), took: begun.elapsed() })
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
        init += &format!("echo\n{}\necho\necho {END}\n", self.command);
        init += &format!("/bin/busybox sleep {LEAVE}\n/bin/busybox poweroff -f\n");
        archive.file("init", init.as_bytes())?;
        Ok(archive.finish()?)
    }
}

/// The first machine that came to a good end, or else the last one.
fn again(mut run: impl FnMut() -> Result<Said, Error>) -> Result<Said, Error> {
    let mut before = Vec::new();
    loop {
        let said = run()?;
        match said.wrong() {
            Some(wrong) if before.len() < AGAIN => before.push(wrong),
            _ => return Ok(Said { before, ..said }),
        }
    }
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

    fn said(line: &str, ended: bool) -> Said {
        let Line::Check(check) = Line::parse(line) else {
            return Said {
                checks: Vec::new(),
                lines: vec![line.to_owned()],
                ended,
                before: Vec::new(),
                took: BEGIN,
            };
        };
        Said { checks: vec![check], ..said("", ended) }
    }

    const BEGIN: Duration = Duration::ZERO;

    #[test]
    fn what_comes_to_no_good_end_is_run_anew_twice_and_told() {
        let still = format!("{STILL}processor 1, 5.2 s");
        for (line, ended) in [(still.as_str(), true), ("linux-hotplug FAIL 60 s", true), ("BUG", false)] {
            for (bad, runs) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
                let mut count = 0;
                let last = again(|| {
                    count += 1;
                    Ok(if count <= bad { said(line, ended) } else { said("linux-ready ok 10 s", true) })
                });
                let last = last.unwrap();
                assert_eq!((count, last.before.len()), (runs, runs - 1));
                assert_eq!(last.wrong().is_some(), bad > AGAIN, "{line}");
                let told = line.split(' ').next().unwrap();
                assert_eq!(last.text(true).matches(told).count(), runs - 1, "{line}");
            }
        }
    }
}
