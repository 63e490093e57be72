//! An emulated machine with SVM, in which Debian's kernel runs programs of this tree: what needs a real kernel mode, or
//! hardware that is not here.

use crate::{
    Error,
    cpio::Archive,
    report::{Check, Line, Lines},
};
use parts::{Parts, Tool};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

/// Its first process, before what it is for. Device files come from the kernel; the rest needs no writing.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmp /tmp
";

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
    /// How long it took.
    pub took: Duration,
}

impl Said {
    /// How long it took, and what was said if it was not `good`.
    pub fn text(&self, good: bool) -> String {
        let told = if good { String::new() } else { format!(": {}", self.lines.join(" | ")) };
        let told: String = told.chars().rev().take(2000).collect();
        format!("{:.0} s in all{}", self.took.as_secs_f64(), told.chars().rev().collect::<String>())
    }
}

impl Machine<'_> {
    /// Runs until it turns itself off, or for as long as `limit`.
    pub fn run(&self, parts: &Parts, limit: Duration) -> Result<Said, Error> {
        let folder = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
        let initial = folder.path().join("initrd");
        fs::write(&initial, self.archive(parts)?)?;
        let mut qemu = parts.command(Tool::Qemu);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-machine", "q35"]);
        qemu.arg("-m").arg(self.memory_mib.to_string()).args(self.devices);
        qemu.arg("-kernel").arg(parts.kernel()).arg("-initrd").arg(&initial);
        // An emulated timer on a busy machine may be late for the kernel's check of it, which then panics.
        qemu.arg("-append")
            .arg(format!("console=ttyS0 quiet no_timer_check panic=-1 rdinit=/init {}", self.words));
        // It tells there what its devices did wrong, as some are told to.
        let complaints = tempfile::NamedTempFile::new()?;
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.reopen()?);
        let mut child = qemu.spawn()?;
        let mut output = child.stdout.take().ok_or_else(|| Error::Unexpected("no output".to_owned()))?;
        let reader = std::thread::spawn(move || {
            let (mut lines, mut all, mut piece) = (Lines::default(), Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = output.read(&mut piece) {
                all.extend(lines.take(&piece[..count]));
            }
            all
        });
        let begun = Instant::now();
        while child.try_wait()?.is_none() && begun.elapsed() < limit {
            sleep(Duration::from_millis(100));
        }
        let ended = child.try_wait()?.is_some();
        if !ended {
            child.kill()?;
        }
        child.wait()?;
        let mut lines = reader.join().unwrap_or_default();
        lines.extend(fs::read_to_string(complaints.path())?.lines().map(str::to_owned));
        let check = |line: &String| match Line::parse(line) {
            Line::Check(check) => Some(check),
            _ => None,
        };
        Ok(Said { checks: lines.iter().filter_map(check).collect(), lines, ended, took: begun.elapsed() })
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
        init += &format!("echo\n{}\n/bin/busybox poweroff -f\n", self.command);
        archive.file("init", init.as_bytes())?;
        for program in self.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            archive.copy(&format!("bin/{name}"), program)?;
        }
        Ok(archive.finish()?)
    }
}
