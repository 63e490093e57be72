//! Makes the disk, step by step, with the tools of the parts.

use crate::{Error, file_error};
use parts::{Parts, Progress, Tool};
use std::{
    fmt::Write,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

/// The image's name in the work folder.
pub(crate) const IMAGE: &str = "root.img";

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// EFI system partition: start and length.
const ESP: (u64, u64) = (MIB, 20 * MIB);
/// Root partition: start and length.
const ROOT: (u64, u64) = (21 * MIB, 26 * MIB);
/// The whole disk, with a MiB for the backup partition table.
const DISK: u64 = 48 * MIB;

const DISK_ID: &str = "8B4F1E3A-2C57-4A8B-9F4E-6D1A0C1B2D01";
const ESP_ID: &str = "8B4F1E3A-2C57-4A8B-9F4E-6D1A0C1B2D02";
const ROOT_ID: &str = "8B4F1E3A-2C57-4A8B-9F4E-6D1A0C1B2D03";
const ROOT_FS_ID: &str = "8B4F1E3A-2C57-4A8B-9F4E-6D1A0C1B2D04";
const HASH_SEED: &str = "8B4F1E3A-2C57-4A8B-9F4E-6D1A0C1B2D05";
/// The date of every file.
const EPOCH: &str = "1700000000";

/// The guest's own files: name in the work folder, place in the root, mode, text.
const FILES: [(&str, &str, u32, &str); 5] = [
    ("start", "/etc/start", 0o755, include_str!("../guest/start")),
    ("inittab", "/etc/inittab", 0o644, include_str!("../guest/inittab")),
    ("profile", "/etc/profile", 0o644, include_str!("../guest/profile")),
    ("flash", "/bin/flash", 0o755, include_str!("../guest/flash")),
    ("power", "/etc/acpi/PWRF/00000080", 0o755, include_str!("../guest/power")),
];
const FOLDERS: [&str; 13] = [
    "/bin",
    "/dev",
    "/proc",
    "/sys",
    "/tmp",
    "/mnt",
    "/root",
    "/lib",
    "/lib/modules",
    "/etc",
    "/etc/acpi",
    "/etc/acpi/PWRF",
    "/var",
];
/// Logs and process ids go to memory: nothing on the root is open when it is made read-only at the end.
const LINKS: [(&str, &str); 3] = [("/sbin", "bin"), ("/var/log", "/tmp"), ("/var/run", "/tmp")];
/// Kernel modules for the power button.
const MODULES: [&str; 2] = ["kernel/drivers/acpi/button.ko", "kernel/drivers/input/evdev.ko"];
const LOADER: &str = include_str!("../guest/loader.conf");
const ENTRY: &str = include_str!("../guest/azote.conf");

/// Everything that the image's bytes depend on.
pub(crate) fn inputs(parts: &Parts) -> String {
    let ids = [DISK_ID, ESP_ID, ROOT_ID, ROOT_FS_ID, HASH_SEED, EPOCH];
    format!(
        "{ESP:?} {ROOT:?} {DISK} {ids:?}\n{FILES:?}\n{FOLDERS:?} {LINKS:?}\n{MODULES:?}\n{LOADER}{ENTRY}\n{}",
        parts.versions()
    )
}

/// Makes the image in the empty folder `work`.
pub(crate) fn make(parts: &Parts, work: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    let mut say = |percent| progress(Progress { step: "building the root image", percent });
    say(0);
    let image = work.join(IMAGE);
    File::create(&image).and_then(|file| file.set_len(DISK)).map_err(file_error(&image))?;
    partition(parts, work)?;
    say(20);
    fill_esp(parts, work)?;
    say(50);
    fill_root(parts, work)?;
    say(100);
    Ok(())
}

fn partition(parts: &Parts, work: &Path) -> Result<(), Error> {
    let sectors = |(start, length): (u64, u64)| format!("start={}, size={}", start / SECTOR, length / SECTOR);
    let table = format!(
        "label: gpt\nlabel-id: {DISK_ID}\n\
         {}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid={ESP_ID}, name=esp\n\
         {}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid={ROOT_ID}, name=root\n",
        sectors(ESP),
        sectors(ROOT)
    );
    let path = write(work, "table", &table, 0o644)?;
    let table = File::open(&path).map_err(file_error(&path))?;
    let mut sfdisk = parts.command(Tool::Sfdisk);
    sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel", IMAGE]).stdin(table);
    run(&mut sfdisk, work, "writing the partition table").map(drop)
}

fn fill_esp(parts: &Parts, work: &Path) -> Result<(), Error> {
    const STEP: &str = "filling the EFI system partition";
    let (start, length) = ESP;
    let mut mkfs = parts.command(Tool::MkfsFat);
    mkfs.args([
        "--invariant",
        "-F",
        "16",
        "-n",
        "AZOTE-ESP",
        "--offset",
        &(start / SECTOR).to_string(),
        IMAGE,
    ]);
    run(mkfs.arg((length / 1024).to_string()), work, STEP)?;
    let disk = format!("{IMAGE}@@{start}");
    let mut mmd = parts.command(Tool::Mmd);
    mmd.args(["-i", &disk, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"]);
    run(&mut mmd, work, STEP)?;
    let loader = write(work, "loader.conf", LOADER, 0o644)?;
    let entry = write(work, "azote.conf", ENTRY, 0o644)?;
    for (from, to) in [
        (parts.boot_manager().as_path(), "::/EFI/BOOT/BOOTX64.EFI"),
        (parts.kernel(), "::/vmlinuz"),
        (&loader, "::/loader/loader.conf"),
        (&entry, "::/loader/entries/azote.conf"),
    ] {
        run(parts.command(Tool::Mcopy).args(["-i", &disk]).arg(absolute(from)?).arg(to), work, STEP)?;
    }
    Ok(())
}

/// debugfs writes the files: it makes root their owner, whoever runs it.
fn fill_root(parts: &Parts, work: &Path) -> Result<(), Error> {
    const STEP: &str = "filling the root file system";
    let (start, length) = ROOT;
    let mut mke2fs = parts.command(Tool::Mke2fs);
    mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-L", "azote-root", "-U", ROOT_FS_ID, "-E"]);
    mke2fs.arg(format!("offset={start},hash_seed={HASH_SEED},root_owner=0:0"));
    run(mke2fs.arg(IMAGE).arg(format!("{}k", length / 1024)), work, STEP)?;
    let script = write(work, "script", &root_script(parts, work)?, 0o644)?;
    let mut debugfs = parts.command(Tool::Debugfs);
    debugfs.arg("-w").arg("-f").arg(absolute(&script)?).arg(format!("{IMAGE}?offset={start}"));
    let complaints = run(&mut debugfs, work, STEP)?;
    // Its exit status says nothing about the script: what it prints after its version does.
    match complaints.lines().nth(1) {
        None => Ok(()),
        Some(line) => Err(Error::Step { step: STEP, output: line.to_owned() }),
    }
}

/// What debugfs is told, one command a line.
fn root_script(parts: &Parts, work: &Path) -> Result<String, Error> {
    let mut script = FOLDERS.map(|folder| format!("mkdir {folder}\n")).concat();
    script.extend(LINKS.map(|(link, to)| format!("symlink {link} {to}\n")));
    let busybox = copy(&parts.busybox(), work, "busybox", 0o755)?;
    let _ = writeln!(script, "write {busybox} /bin/busybox");
    for (name, place, mode, text) in FILES {
        write(work, name, text, mode)?;
        let _ = writeln!(script, "write {name} {place}");
    }
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        copy(&parts.kernel_modules().join(module), work, name, 0o644)?;
        let _ = writeln!(script, "write {name} /lib/modules/{name}");
    }
    let output =
        Command::new(parts.busybox()).arg("--list").output().map_err(file_error(&parts.busybox()))?;
    script.push_str("cd /bin\n");
    for applet in String::from_utf8_lossy(&output.stdout).lines().filter(|name| *name != "busybox") {
        let _ = writeln!(script, "symlink {applet} busybox");
    }
    Ok(script)
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, Error> {
    std::path::absolute(path).map_err(file_error(path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(file_error(path))
}

fn write(work: &Path, name: &str, text: &str, mode: u32) -> Result<std::path::PathBuf, Error> {
    let path = work.join(name);
    fs::write(&path, text).map_err(file_error(&path))?;
    set_mode(&path, mode)?;
    Ok(path)
}

fn copy<'a>(from: &Path, work: &Path, name: &'a str, mode: u32) -> Result<&'a str, Error> {
    let to = work.join(name);
    fs::copy(from, &to).map_err(file_error(from))?;
    set_mode(&to, mode)?;
    Ok(name)
}

/// Runs a tool in `work`; what it wrote to its standard error.
fn run(command: &mut Command, work: &Path, step: &'static str) -> Result<String, Error> {
    let failed = |output: String| Error::Step { step, output };
    command.current_dir(work).env("SOURCE_DATE_EPOCH", EPOCH).env("TZ", "UTC").env("LC_ALL", "C");
    let output = command.stdout(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(said) } else { Err(failed(said)) }
}
