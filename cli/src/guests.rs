//! What instances that share the host start with: whether this machine takes them at all, their kernel, their memory.

use crate::{
    failure::{Doing, Failure},
    place::Place,
    rack::program,
    up::{KNOWN_GOOD, hex_sha256},
};
use clap::{Args, ValueEnum};
use parts::Parts;
use std::{fs, path::PathBuf, process::Command};

/// Whether instances share the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Sharing {
    /// Where the processor has VMX or SVM and /dev/kvm opens; elsewhere instances get the emulated main board.
    #[default]
    Auto,
    /// On any KVM, also one of another kind, on which Linux may not boot.
    Always,
    /// Not at all.
    Never,
}

/// What they start with.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Guests {
    /// Whether instances may share this host, each in a hypervisor of its own.
    #[arg(long, value_enum, default_value_t = Sharing::Auto)]
    hypervisor: Sharing,
    /// Their kernel, instead of Debian's cloud kernel.
    #[arg(long, value_name = "FILE")]
    guest_kernel: Option<PathBuf>,
    /// Their kernel's command line.
    #[arg(long, value_name = "TEXT")]
    guest_command_line: Option<String>,
    /// Memory in MiB to set aside for them in large pages.
    #[arg(long, value_name = "MIB")]
    guest_memory: Option<u64>,
    /// A function of this machine's hardware that is an accelerator of a family of instance types, as
    /// g4dn=0000:03:00.1, bound to vfio-pci; once for each function.
    #[arg(long, value_name = "FAMILY=ADDRESS")]
    passthrough: Vec<String>,
    /// Start none of them where anything is missing that keeps tenants apart.
    #[arg(long)]
    production: bool,
}

impl Guests {
    /// Whether they may share this machine.
    fn wanted(&self) -> bool {
        match self.hypervisor {
            Sharing::Never => false,
            Sharing::Always => true,
            Sharing::Auto => hardware(),
        }
    }

    /// Makes their kernel known good, and tells the controller what to start.
    pub(crate) fn tell(&self, place: &Place, parts: &Parts, controller: &mut Command) -> Result<(), Failure> {
        if !self.wanted() {
            return Ok(());
        }
        let kernel = self.guest_kernel.as_deref().unwrap_or(parts.kernel());
        know(place, &hex_sha256(&fs::read(kernel).doing(kernel.display())?))?;
        controller.arg("--hypervisor").arg(program("azote-hypervisor")?);
        controller.arg("--launcher").arg(program("azote-launcher")?);
        controller.arg("--kernel").arg(kernel);
        if let Some(text) = &self.guest_command_line {
            controller.args(["--command-line", text]);
        }
        if let Some(memory) = self.guest_memory {
            controller.args(["--guest-memory", &memory.to_string()]);
        }
        for function in &self.passthrough {
            controller.args(["--passthrough", function]);
        }
        if self.production {
            controller.args(["--environment", "production"]);
        }
        Ok(())
    }
}

/// Whether the processor runs kernels of guests, and this user may use it.
fn hardware() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let kernels = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    kernels && fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Adds a guest's kernel to the known-good set of the host.
fn know(place: &Place, sha256: &str) -> Result<(), Failure> {
    let path = place.path(KNOWN_GOOD);
    let mut text = fs::read_to_string(&path).doing(path.display())?;
    if text.contains(sha256) {
        return Ok(());
    }
    text.push_str(&format!("{sha256}  guest kernel\n"));
    service::write_atomic(&path, text.as_bytes()).doing(path.display())
}
