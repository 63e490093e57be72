//! What the lab is made of: QEMU with vfio-user, UEFI firmware, a software TPM, Debian's cloud kernel, and
//! the tools that make disk images. A suitable QEMU on the `PATH` is used; everything else comes from the
//! Debian archive that the machine's own apt is set up for, verified by apt against Debian's keys, unpacked
//! into one folder. The system's packages stay as they are; root is not needed; nothing is built or started
//! here apart from apt.
//!
//! It runs on a developer's machine only, never on a host, and stands on no trust boundary of the host: what
//! it fetches is trusted as far as Debian's signatures go.
#![forbid(unsafe_code)]

mod apt;
mod fetch;
mod find;
mod solver;
#[cfg(test)]
mod tests;

pub use solver::{Solvers, solvers};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the lab: `AZOTE_LAB_DIR`, else `target/lab` of the source tree that this was built from.
pub fn default_dir() -> PathBuf {
    // Normalised by hand: `target` may be a link, and what is printed should read well.
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let built = || tree.unwrap_or(Path::new("/")).join("target/lab");
    std::env::var_os("AZOTE_LAB_DIR").map_or_else(built, PathBuf::from)
}

/// What the flash of the emulated main board's management controller holds: firmware that is a stand-in, as that
/// controller is.
pub fn bmc_flash() -> Vec<u8> {
    let mut flash = BMC_FIRMWARE.to_vec();
    flash.resize(4096, 0xff);
    flash
}

/// Its first bytes. They run nothing: the management controller only looks whether they are there.
pub const BMC_FIRMWARE: &[u8] = b"azote lab: management controller, stand-in\n";

/// A program among the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `qemu-system-x86_64`, 10.1 or newer, with `vfio-user-pci`; finds its own data files.
    Qemu,
    /// `qemu-img`, an NBD client of others' making.
    QemuImg,
    /// `qemu-io`, likewise.
    QemuIo,
    /// The software TPM.
    Swtpm,
    /// Writes partition tables.
    Sfdisk,
    /// Makes FAT file systems.
    MkfsFat,
    /// Makes directories in a FAT image.
    Mmd,
    /// Copies files into a FAT image.
    Mcopy,
    /// Makes ext4 file systems.
    Mke2fs,
    /// Writes files into an ext4 image.
    Debugfs,
}

/// How far a longer piece of work is. Shown as `fetching packages: 42 %`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub step: &'a str,
    /// How much of this step is done, 0 to 100.
    pub percent: u8,
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} %", self.step, self.percent)
    }
}

/// Why the parts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not fetched yet.
    #[error("no lab parts in {}: run `cargo xtask parts`", .0.display())]
    Absent(PathBuf),
    /// Another processor than x86-64.
    #[error("the lab needs an x86-64 machine; this one is {}", std::env::consts::ARCH)]
    Architecture,
    /// No apt.
    #[error(
        "{0} is not on the PATH: the lab fetches its parts through apt, so run it on Debian or in a Debian container"
    )]
    NoApt(&'static str),
    /// The machine's apt is not set up for Debian.
    #[error(
        "apt knows no Debian archive: add one to /etc/apt/sources.list.d \
         (`apt-get update --print-uris` shows what it knows)"
    )]
    NoArchive,
    /// apt or dpkg-deb failed.
    #[error("{step} failed; check the network and the mirror in /etc/apt, then run it again. {output}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// The end of what the program said.
        output: String,
    },
    /// The archive gave something that the lab cannot use.
    #[error("the Debian archive gave no usable {0}: is its trixie-backports complete?")]
    Unsuitable(&'static str),
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The parts, complete and ready for use.
#[derive(Debug, Clone)]
pub struct Parts {
    dir: PathBuf,
    tree: PathBuf,
    qemu: Option<PathBuf>,
    kernel: PathBuf,
    kernel_modules: PathBuf,
    versions: String,
}

impl Parts {
    /// The parts in the lab's folder `dir`; fetches what is missing (about 75 MB, well under a minute on a
    /// good line). Several processes may call it at once: one fetches, the others wait.
    pub fn locate_or_fetch(dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self, Error> {
        let wanted = fetch::Wanted::on_this_machine()?;
        fetch::ensure(dir, &wanted, progress)?;
        Self::locate(dir)
    }

    /// The parts that [`Parts::locate_or_fetch`] has left in `dir` before.
    pub fn locate(dir: &Path) -> Result<Self, Error> {
        find::locate(dir)
    }

    /// The lab's folder, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs `tool`, without its arguments.
    pub fn command(&self, tool: Tool) -> Command {
        match (tool, &self.qemu) {
            (Tool::Qemu, Some(path)) => Command::new(path),
            (Tool::Qemu, None) => {
                let mut command = self.fetched("usr/bin/qemu-system-x86_64");
                // Its modules must be of the same build; it would look in the system's folder.
                command.env("QEMU_MODULE_DIR", self.tree.join("usr/lib/x86_64-linux-gnu/qemu"));
                for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                    command.arg("-L").arg(self.tree.join(data));
                }
                command
            }
            (Tool::QemuImg, _) => self.fetched("usr/bin/qemu-img"),
            (Tool::QemuIo, _) => self.fetched("usr/bin/qemu-io"),
            (Tool::Swtpm, _) => self.fetched("usr/bin/swtpm"),
            (Tool::Sfdisk, _) => self.fetched("usr/sbin/sfdisk"),
            (Tool::MkfsFat, _) => self.fetched("usr/sbin/mkfs.fat"),
            (Tool::Mmd, _) => self.fetched("usr/bin/mmd"),
            (Tool::Mcopy, _) => self.fetched("usr/bin/mcopy"),
            (Tool::Mke2fs, _) => self.fetched("usr/sbin/mke2fs"),
            (Tool::Debugfs, _) => self.fetched("usr/sbin/debugfs"),
        }
    }

    /// Debian's Alertmanager, for tests of alarms: fetched on first use (about 10 MB), nothing is installed.
    pub fn alertmanager(&self) -> Result<Command, Error> {
        let home = fetch::alertmanager(&self.dir)?;
        let mut command = started(&self.tree, &home.join(fetch::ALERTMANAGER));
        command.current_dir(home);
        Ok(command)
    }

    /// These parts with Debian's next cloud kernel, for what this one does not have: fetched on first use (about 35 MB).
    /// Of its modules only those that are `wanted` can be loaded, by their paths below [`Parts::kernel_modules`].
    pub fn with_newer_kernel(&self, wanted: &[&str]) -> Result<Self, Error> {
        let home = fetch::newer_kernel(&self.dir, &self.busybox(), wanted)?;
        let (kernel, kernel_modules) = find::kernel_in(&home).ok_or(Error::Unsuitable("kernel"))?;
        Ok(Self { kernel, kernel_modules, ..self.clone() })
    }

    /// Debian's tpm2-tools, others' code on the TCG's own stack, for tests of what our TPM code makes: `tpm2 <tool>`.
    /// Fetched on first use (about 20 MB), nothing is installed.
    pub fn tpm2_tools(&self) -> Result<Command, Error> {
        let home = fetch::tpm2_tools(&self.dir)?;
        Ok(started(&home, &home.join("usr/bin/tpm2")))
    }

    /// A program of the unpacked tree.
    fn fetched(&self, program: &str) -> Command {
        started(&self.tree, &self.tree.join(program))
    }

    /// UEFI firmware (OVMF), the code part.
    pub fn firmware_code(&self) -> PathBuf {
        self.tree.join("usr/share/OVMF/OVMF_CODE_4M.fd")
    }

    /// UEFI firmware, the variables as they leave the factory.
    pub fn firmware_variables(&self) -> PathBuf {
        self.tree.join("usr/share/OVMF/OVMF_VARS_4M.fd")
    }

    /// Debian's cloud kernel, unmodified, with an EFI stub.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The folder of the modules that belong to [`Parts::kernel`].
    pub fn kernel_modules(&self) -> &Path {
        &self.kernel_modules
    }

    /// A statically linked busybox.
    pub fn busybox(&self) -> PathBuf {
        self.tree.join("usr/bin/busybox")
    }

    /// A UEFI boot manager (systemd-boot).
    pub fn boot_manager(&self) -> PathBuf {
        self.tree.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    }

    /// The package files that the parts were unpacked from, one name with version in each line.
    pub fn versions(&self) -> &str {
        &self.versions
    }
}

/// A program, started by the C library that came with its tree.
fn started(tree: &Path, program: &Path) -> Command {
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    let mut path = libraries.clone().into_os_string();
    path.push(":");
    path.push(libraries.join("swtpm"));
    let mut command = Command::new(tree.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(path).arg(program);
    command
}
