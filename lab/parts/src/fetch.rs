//! Fetches and unpacks the parts, once.

use crate::{
    Error, Progress,
    apt::{Apt, file_error, run},
    find::{is_suitable_qemu, kernel_in, locate, suitable_qemu},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// Where the tools come from: the release, and the suite that has a QEMU new enough.
const TOOLS: [&str; 2] = ["trixie", "trixie-backports"];
/// Where the guest's kernel comes from.
const KERNEL: (&str, &str) = ("linux-image-cloud-amd64", "bookworm");
const PACKAGES: [&str; 9] = [
    "ovmf",
    "swtpm",
    "busybox-static",
    "systemd-boot-efi",
    "mtools",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "qemu-utils",
];
/// Where its package has it.
pub(crate) const ALERTMANAGER: &str = "usr/bin/prometheus-alertmanager";
const QEMU: &str = "qemu-system-x86";
/// Raised when the layout of the parts' folder changes.
const LAYOUT: u32 = 1;

/// What a machine needs. Parts that were fetched for something else are fetched again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Use this QEMU and fetch none.
    pub(crate) qemu_on_path: Option<PathBuf>,
}

impl Wanted {
    pub(crate) fn on_this_machine() -> Result<Self, Error> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::Architecture);
        }
        Ok(Self { qemu_on_path: suitable_qemu() })
    }

    fn packages(&self) -> Vec<&'static str> {
        let qemu = self.qemu_on_path.is_none().then_some(QEMU);
        PACKAGES.into_iter().chain(qemu).collect()
    }

    /// The stamp of a finished fetch.
    pub(crate) fn to_text(&self) -> String {
        let qemu = self.qemu_on_path.as_deref().unwrap_or(Path::new("")).display();
        format!("{LAYOUT} {TOOLS:?} {KERNEL:?} {:?}\n{qemu}\n", self.packages())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let path = text.lines().nth(1)?;
        let wanted = Self { qemu_on_path: (!path.is_empty()).then(|| path.into()) };
        (wanted.to_text() == text).then_some(wanted)
    }
}

/// Makes sure that `dir` has what is wanted. One process at a time does the work.
pub(crate) fn ensure(
    dir: &Path,
    wanted: &Wanted,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Error> {
    let fetched = once(dir, "parts", &wanted.to_text(), |fresh| fetch(fresh, wanted, progress))?;
    if fetched { check(dir) } else { Ok(()) }
}

/// Makes the folder `name` in `dir` once for each stamp, out of sight until it is whole; whether it was made now. One
/// process at a time does the work, others wait.
pub(crate) fn once(
    dir: &Path,
    name: &str,
    stamp: &str,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<bool, Error> {
    let home = dir.join(name);
    let there = || fs::read_to_string(home.join("wanted")).is_ok_and(|text| text == stamp);
    if there() {
        return Ok(false);
    }
    fs::create_dir_all(dir).map_err(|e| file_error(dir, e))?;
    let lock_path = dir.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(|e| file_error(&lock_path, e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| file_error(&lock_path, e.into()))?;
    if there() {
        return Ok(false);
    }
    let fresh = dir.join(format!("{name}.new"));
    let remove = |path: &Path| match fs::remove_dir_all(path) {
        Err(e) if path.exists() => Err(file_error(path, e)),
        _ => Ok(()),
    };
    remove(&fresh)?;
    fs::create_dir_all(&fresh).map_err(|e| file_error(&fresh, e))?;
    make(&fresh)?;
    write(&fresh.join("wanted"), stamp)?;
    remove(&home)?;
    fs::rename(&fresh, &home).map_err(|e| file_error(&home, e))?;
    Ok(true)
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| file_error(path, e))
}

/// Unpacks what apt has fetched into `tree`; gives the package files' names, one in each line.
pub(crate) fn unpack(
    apt: &Apt,
    tree: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, Error> {
    let packages = apt.packages()?;
    for (done, package) in packages.iter().enumerate() {
        const STEP: &str = "unpacking packages";
        let percent = u8::try_from(done * 100 / packages.len()).unwrap_or(100);
        progress(Progress { step: STEP, percent });
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(tree), STEP)?;
    }
    let names = packages.iter().filter_map(|path| path.file_name());
    Ok(names.map(|name| format!("{}\n", name.to_string_lossy())).collect())
}

/// Makes sure that Debian's Alertmanager is in `dir`; the folder that it is unpacked in. It is no part of a host: only
/// who tests alarms needs it.
pub(crate) fn alertmanager(dir: &Path) -> Result<PathBuf, Error> {
    const NAME: &str = "alertmanager";
    once(dir, NAME, TOOLS[0], |fresh| {
        let state = fresh.join("apt");
        let apt = Apt::new(&state, &[TOOLS[0]])?;
        apt.update(&mut |_| {})?;
        apt.download("prometheus-alertmanager", "fetching Alertmanager")?;
        unpack(&apt, fresh, &mut |_| {})?;
        relocate(&fresh.join(ALERTMANAGER))?;
        fs::remove_dir_all(&state).map_err(|e| file_error(&state, e))
    })?;
    Ok(dir.join(NAME))
}

/// Makes sure that a kernel newer than the lab's own is in `dir`, with the modules `wanted`, unpacked; the folder that it
/// is in. Only who tests what the lab's own kernel does not have needs it.
pub(crate) fn newer_kernel(dir: &Path, busybox: &Path, wanted: &[&str]) -> Result<PathBuf, Error> {
    const NAME: &str = "newer-kernel";
    once(dir, NAME, &format!("{} {wanted:?}", TOOLS[0]), |fresh| {
        let state = fresh.join("apt");
        let apt = Apt::new(&state, &[TOOLS[0]])?;
        apt.update(&mut |_| {})?;
        apt.fetch_behind(KERNEL.0, TOOLS[0])?;
        unpack(&apt, fresh, &mut |_| {})?;
        fs::remove_dir_all(&state).map_err(|e| file_error(&state, e))?;
        let (_, modules) = kernel_in(fresh).ok_or(Error::Unsuitable("kernel"))?;
        let unpack = |module: &&str| {
            let packed = modules.join(module).with_added_extension("xz");
            run(Command::new(busybox).arg("unxz").arg(packed), "unpacking kernel modules").map(drop)
        };
        wanted.iter().try_for_each(unpack)
    })?;
    Ok(dir.join(NAME))
}

/// Makes sure that `dir` has tpm2-tools and all that they need, apart from the parts: only tests want them.
pub(crate) fn tpm2_tools(dir: &Path) -> Result<PathBuf, Error> {
    const NAME: &str = "tpm2-tools";
    once(dir, NAME, &format!("{LAYOUT} {TOOLS:?} {NAME}\n"), |fresh| {
        let state = fresh.join("apt");
        let apt = Apt::new(&state, &[TOOLS[0]])?;
        apt.update(&mut |_| {})?;
        apt.fetch(TOOLS[0], &[NAME], &mut |_| {})?;
        unpack(&apt, fresh, &mut |_| {})?;
        fs::remove_dir_all(&state).map_err(|e| file_error(&state, e))
    })?;
    Ok(dir.join(NAME))
}

/// Debian builds it to read its templates below `/usr`, where nothing is installed: makes that path, which keeps its
/// length, relative to the folder that it is started in.
fn relocate(program: &Path) -> Result<(), Error> {
    const BUILT: &[u8] = b"/usr/share/prometheus/alertmanager";
    const MOVED: &[u8] = b"usr/share/prometheus//alertmanager";
    let mut bytes = fs::read(program).map_err(|e| file_error(program, e))?;
    let places: Vec<usize> =
        bytes.windows(BUILT.len()).enumerate().filter(|(_, w)| *w == BUILT).map(|(at, _)| at).collect();
    for at in &places {
        bytes[*at..at + BUILT.len()].copy_from_slice(MOVED);
    }
    if places.is_empty() {
        return Err(Error::Unsuitable("Alertmanager"));
    }
    fs::write(program, bytes).map_err(|e| file_error(program, e))
}

fn fetch(fresh: &Path, wanted: &Wanted, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    let state = fresh.join("apt");
    let [_, newest] = TOOLS;
    let apt = Apt::new(&state, &[TOOLS.as_slice(), &[KERNEL.1]].concat())?;
    apt.update(progress)?;
    apt.fetch(newest, &wanted.packages(), progress)?;
    apt.fetch_behind(KERNEL.0, KERNEL.1)?;
    let versions = unpack(&apt, &fresh.join("tree"), progress)?;
    fs::remove_dir_all(&state).map_err(|e| file_error(&state, e))?;
    write(&fresh.join("versions"), &versions)
}

/// Whether what the archive gave is what the lab needs; if not, nothing is left that looks complete.
fn check(dir: &Path) -> Result<(), Error> {
    let parts = locate(dir)?;
    let files = [
        ("firmware", parts.firmware_code()),
        ("firmware variables", parts.firmware_variables()),
        ("busybox", parts.busybox()),
        ("boot manager", parts.boot_manager()),
        ("kernel", parts.kernel().to_owned()),
    ];
    let missing = files.into_iter().find(|(_, path)| !path.is_file()).map(|(name, _)| name);
    let qemu = || parts.command(crate::Tool::Qemu);
    let unsuitable = missing.or_else(|| (!is_suitable_qemu(qemu(), qemu())).then_some("QEMU"));
    unsuitable.map_or(Ok(()), |name| {
        let _ = fs::remove_file(dir.join("parts/wanted"));
        Err(Error::Unsuitable(name))
    })
}
