//! Other machine monitors that run the same guest image in the same run, to stand beside ours.

use crate::{
    Error, IMAGE,
    report::{Check, Line, Lines},
    scenario::own_memory,
};
use parts::{Parts, Tool};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// One run of the guest under a peer.
#[derive(Debug, Default)]
pub struct Run {
    /// What it reported.
    pub checks: Vec<Check>,
    /// Nanoseconds since 1970 just before the process was started.
    pub started: u128,
    /// Resident memory of the process that is not the guest's, in KiB, when it was last looked at.
    pub own_kib: u64,
}

/// A peer.
pub enum Peer {
    /// QEMU of the lab's parts on this machine's KVM.
    Qemu(Box<Parts>),
    /// Firecracker, if somebody gave it.
    Firecracker(PathBuf),
}

/// What a peer's machine is to have besides one processor and 128 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: the smallest machine that the peer has.
    Small,
    /// An NVMe function. QEMU only.
    Nvme,
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "QEMU",
            Self::Firecracker(_) => "Firecracker",
        }
    }

    /// Runs the guest until its last line, or for `limit`.
    pub fn run(&self, words: &str, shape: Shape, limit: Duration) -> Result<Run, Error> {
        let folder = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
        let kernel = folder.path().join("guest.elf");
        fs::write(&kernel, IMAGE)?;
        let mut command = match self {
            Self::Qemu(parts) => qemu(parts, &folder, &kernel, words, shape)?,
            Self::Firecracker(program) => firecracker(program, &folder, &kernel, words)?,
        };
        let started = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        watch(Running(child), limit, Run { started, ..Run::default() })
    }
}

/// The smallest machine type, or for NVMe the one with PCI.
fn qemu(parts: &Parts, folder: &TempDir, kernel: &Path, words: &str, shape: Shape) -> Result<Command, Error> {
    let mut command = parts.command(Tool::Qemu);
    command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "128"]);
    if shape == Shape::Nvme {
        let disk = folder.path().join("disk");
        File::create(&disk)?.set_len(64 << 20)?;
        command.arg("-drive").arg(format!("file={},if=none,id=disk,format=raw", disk.display()));
        command.args(["-machine", "q35", "-device", "nvme,drive=disk,serial=disk"]);
    } else {
        command.args(["-machine", "microvm"]);
    }
    command.arg("-kernel").arg(kernel).args(["-append", words]);
    Ok(command)
}

fn firecracker(program: &Path, folder: &TempDir, kernel: &Path, words: &str) -> Result<Command, Error> {
    let config = serde_json::json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": words },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
        "drives": [],
    });
    let file = folder.path().join("config.json");
    fs::write(&file, config.to_string())?;
    let mut command = Command::new(program);
    command.args(["--no-api", "--config-file"]).arg(file);
    Ok(command)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The pieces of a process's output, as they come.
fn pieces(child: &mut Child) -> Result<Receiver<Vec<u8>>, Error> {
    let mut output = child.stdout.take().ok_or_else(|| Error::Unexpected("no output".to_owned()))?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut piece) {
            if send.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    Ok(receive)
}

fn watch(mut running: Running, limit: Duration, mut run: Run) -> Result<Run, Error> {
    let (output, end) = (pieces(&mut running.0)?, Instant::now() + limit);
    let mut lines = Lines::default();
    loop {
        match output
            .recv_timeout(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)))
        {
            Ok(piece) => {
                for line in lines.take(&piece) {
                    match Line::parse(&line) {
                        Line::Check(check) => run.checks.push(check),
                        Line::End(_) => return Ok(run),
                        _ => {}
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
            Err(_) => return Ok(run),
        }
        run.own_kib = run.own_kib.max(own_memory(running.0.id()).unwrap_or_default());
    }
}
