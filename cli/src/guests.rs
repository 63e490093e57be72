//! What instances that share the host start with: whether this machine takes them at all, their kernel, their memory.

use clap::{Args, ValueEnum};
use std::{fs, path::PathBuf};

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

    /// Their kernel, if not the lab's.
    pub(crate) fn kernel(&self) -> Option<&PathBuf> {
        self.guest_kernel.as_ref()
    }

    /// What the controller is told of them: lines of its configuration.
    pub(crate) fn configuration(&self) -> String {
        let mut text = format!("shared={}\n", if self.wanted() { "yes" } else { "no" });
        let lines = [
            ("command-line", self.guest_command_line.clone()),
            ("guest-memory", self.guest_memory.map(|memory| memory.to_string())),
            ("weaknesses", self.production.then(|| "refuse".to_owned())),
        ];
        let functions = self.passthrough.iter().map(|function| ("passthrough", Some(function.clone())));
        for (name, value) in lines.into_iter().chain(functions) {
            if let Some(value) = value {
                text.push_str(&format!("{name}={value}\n"));
            }
        }
        text
    }
}

/// Whether the processor runs kernels of guests, and this user may use it.
fn hardware() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let kernels = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    kernels && fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}
