//! The TPM client against a TPM as a kernel has it: Debian's kernel in an emulated machine whose main board has a TPM, once
//! with its command-response buffer and once with its FIFO, drives `/dev/tpmrm0`.

use crate::{
    Error,
    nested::Machine,
    report::Check,
    scenario::{Programs, row},
};
use parts::{Parts, Tool};
use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The two interfaces that the TCG's PC Client profile has, and QEMU.
const INTERFACES: [&str; 2] = ["tpm-crb", "tpm-tis"];
/// As many checks as the program makes.
const CHECKS: usize = 9;

/// Both interfaces, one machine each, at most `limit` each.
pub fn nested(programs: &Programs, limit: Duration) -> Result<Vec<Check>, Error> {
    let parts = Parts::locate(&parts::default_dir())?;
    let mut rows = Vec::new();
    for interface in INTERFACES {
        let folder = tempfile::Builder::new().prefix("azote-tpm-").tempdir()?;
        let mut tpm = Software::start(&parts, folder.path())?;
        let socket = folder.path().join("control.sock");
        let devices = [
            "-chardev",
            &format!("socket,id=tpm-control,path={}", socket.display()),
            "-tpmdev",
            "emulator,id=tpm,chardev=tpm-control",
            "-device",
            &format!("{interface},tpmdev=tpm"),
        ];
        let machine = Machine {
            memory_mib: 512,
            modules: &[],
            words: "",
            devices: &devices.map(str::to_owned),
            files: &[],
            programs: &[programs.tpm_check()],
            command: "/bin/tpm-check /dev/tpmrm0",
        };
        let said = machine.run(&parts, limit);
        tpm.stop();
        let said = said?;
        let good = said.ended && said.checks.len() == CHECKS;
        let text = said.text(good);
        let named = |check: Check| Check { text: format!("{interface} {}", check.text), ..check };
        rows.extend(said.checks.into_iter().map(named));
        rows.push(row(interface, good, text));
    }
    Ok(rows)
}

/// A software TPM for one machine.
struct Software(Child);

impl Software {
    fn start(parts: &Parts, folder: &Path) -> Result<Self, Error> {
        let socket = folder.join("control.sock");
        let mut swtpm = parts.command(Tool::Swtpm);
        swtpm.args(["socket", "--tpm2"]).arg("--tpmstate").arg(format!("dir={}", folder.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={},mode=0600", socket.display()));
        let mut started = Self(swtpm.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let begun = Instant::now();
        // Its name is there before anybody answers behind it.
        while UnixStream::connect(&socket).is_err() {
            if begun.elapsed() > Duration::from_secs(10) || started.0.try_wait()?.is_some() {
                return Err(Error::Unexpected("the software TPM does not start".to_owned()));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(started)
    }

    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Software {
    fn drop(&mut self) {
        self.stop();
    }
}
