//! Programs of this machine that matter to whoever could start one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Where programs are. A file system without these is a sealed one.
const FOLDERS: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/opt", "/snap"];
/// Most files that are looked at.
const MAX_FILES: usize = 2_000_000;
/// set-user-ID, set-group-ID with the right to execute.
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// Files that run as somebody else than who starts them.
pub(crate) fn setuid() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        FOLDERS.iter().map(PathBuf::from).filter(|folder| folder.is_dir() && !folder.is_symlink()).collect();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            seen += 1;
            if seen > MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files")));
            }
            let mode = metadata.permissions().mode();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() && (mode & SETUID != 0 || (mode & SETGID != 0 && mode & 0o111 != 0))
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Shells: what `/etc/shells` names, and the usual ones.
pub(crate) fn shells() -> Vec<PathBuf> {
    let listed = fs::read_to_string("/etc/shells").unwrap_or_default();
    let listed = listed.lines().filter(|line| line.starts_with('/')).map(str::trim);
    let usual = ["/bin/sh", "/bin/bash", "/bin/busybox"];
    let mut shells: Vec<PathBuf> =
        listed.chain(usual).filter(|shell| Path::new(shell).is_file()).map(PathBuf::from).collect();
    shells.sort();
    shells.dedup();
    shells
}
