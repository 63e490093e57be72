//! Looks for what is there already: a QEMU on the `PATH`, and parts fetched before.

use crate::{Error, Parts, apt::file_error};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// First QEMU release with the vfio-user client.
const OLDEST_QEMU: (u32, u32) = (10, 1);

/// Where `name` is on the `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A QEMU on the `PATH` that can be a client of the cards, by its own word.
pub(crate) fn suitable_qemu() -> Option<PathBuf> {
    on_path("qemu-system-x86_64").filter(|qemu| is_suitable_qemu(Command::new(qemu), Command::new(qemu)))
}

/// Asks a QEMU for its version and its devices.
pub(crate) fn is_suitable_qemu(mut version: Command, mut devices: Command) -> bool {
    let output = |command: &mut Command| {
        command.output().map(|got| String::from_utf8_lossy(&got.stdout).into_owned()).unwrap_or_default()
    };
    qemu_version(&output(version.arg("--version"))).is_some_and(|found| found >= OLDEST_QEMU)
        && output(devices.args(["-device", "help"])).contains("\"vfio-user-pci\"")
}

/// Major and minor of `QEMU emulator version 11.1.3 (Debian …)`.
pub(crate) fn qemu_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.lines().next()?.split_once("version ")?.1.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Reads what a finished fetch has left in `dir`.
pub(crate) fn locate(dir: &Path) -> Result<Parts, Error> {
    let absent = || Error::Absent(dir.to_owned());
    let dir = &std::path::absolute(dir).map_err(|e| file_error(dir, e))?;
    let home = dir.join("parts");
    let read = |name: &str| fs::read_to_string(home.join(name)).map_err(|_| absent());
    let wanted = crate::fetch::Wanted::parse(&read("wanted")?).ok_or_else(absent)?;
    let tree = home.join("tree");
    let (kernel, kernel_modules) = kernel_in(&tree).ok_or_else(absent)?;
    Ok(Parts {
        dir: dir.to_owned(),
        kernel,
        kernel_modules,
        tree,
        qemu: wanted.qemu_on_path,
        versions: read("versions")?,
    })
}

/// The kernel in an unpacked tree, and the folder of its modules.
pub(crate) fn kernel_in(tree: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut files = fs::read_dir(tree.join("boot")).ok()?.filter_map(Result::ok);
    let kernel = files.find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))?;
    let release = kernel.file_name().to_string_lossy().trim_start_matches("vmlinuz-").to_owned();
    // Newer packages have it below `usr`.
    let modules = ["lib/modules", "usr/lib/modules"].map(|folder| tree.join(folder).join(&release));
    Some((kernel.path(), modules.into_iter().find(|folder| folder.is_dir())?))
}
