//! Where one installation keeps its state: a folder for each room, so that no room needs another's.

use crate::failure::{Doing, Failure};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Longest path of a Unix socket that every system takes (`sockaddr_un` has 108 bytes, one for the end).
const MAX_SOCKET_PATH: usize = 107;
/// Room for the longest socket name below `run/`, or a function's below `functions/`.
const LONGEST_SOCKET: usize = "/functions/vol-0123456789abcdef0.sock".len();

/// The file that makes a folder an installation.
pub(crate) const INSTALLATION: &str = "installation.json";

/// The state folder of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// Takes the folder, which need not exist.
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder).doing("state folder")?;
        let most = MAX_SOCKET_PATH - LONGEST_SOCKET;
        if folder.as_os_str().len() > most {
            let message = format!(
                "{}: too long for the names of the sockets in it; give a --state folder of at most {most} bytes",
                folder.display()
            );
            return Err(Failure::Advice("state.too-long", message));
        }
        Ok(Self(folder))
    }

    /// Makes the folder, unless somebody else's files are in it.
    pub(crate) fn claim(&self) -> Result<(), Failure> {
        let here = self.0.display().to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).doing(&here)?;
        let ours = self.path(INSTALLATION).exists() || fs::read_dir(&self.0).doing(&here)?.next().is_none();
        if ours {
            return Ok(());
        }
        let message = format!("{here} holds something else; give an empty or a new --state folder");
        Err(Failure::Advice("state.foreign", message))
    }

    /// Keeps other commands from starting and stopping processes here until it is dropped. It is the folder
    /// itself that is locked.
    pub(crate) fn lock(&self) -> Result<File, Failure> {
        let folder = File::open(&self.0).doing(self.0.display())?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let message = format!("another azote starts or stops {}; wait for it", self.0.display());
            Failure::Advice("state.locked", message)
        })?;
        Ok(folder)
    }

    /// The default: `$XDG_STATE_HOME/azote`, else `~/.local/state/azote`.
    pub(crate) fn default_folder() -> PathBuf {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(home)
            .unwrap_or_else(std::env::temp_dir)
            .join("azote")
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    /// A folder in it, made private (mode 0700) if it is not there yet.
    pub(crate) fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// A path in it; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Every file below it, for the demo's search for secrets. What is removed meanwhile may be left out.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let (mut found, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_too_deep_for_sockets_is_refused_with_advice() {
        let deep = PathBuf::from("/").join("d".repeat(90));
        assert!(Place::new(&deep).unwrap_err().to_string().contains("at most"));
        let longest = MAX_SOCKET_PATH - LONGEST_SOCKET - 1;
        assert!(Place::new(&PathBuf::from("/").join("d".repeat(longest))).is_ok());
        assert!(Place::new(&PathBuf::from("/").join("d".repeat(longest + 1))).is_err());
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::new(scratch.path()).unwrap();
        place.claim().unwrap();
        fs::write(scratch.path().join("letters"), "x").unwrap();
        assert_eq!(place.claim().unwrap_err().code(), "state.foreign");
        fs::write(place.path(INSTALLATION), "{}").unwrap();
        place.claim().unwrap();
    }

    #[test]
    fn two_do_not_start_and_stop_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::new(scratch.path()).unwrap();
        let lock = place.lock().unwrap();
        assert_eq!(place.lock().unwrap_err().code(), "state.locked");
        drop(lock);
        place.lock().unwrap();
    }

    #[test]
    fn folders_are_private() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::new(scratch.path()).unwrap();
        let folder = place.folder("kms").unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(folder.join("a"), "x").unwrap();
        assert_eq!(place.files().unwrap(), [folder.join("a")]);
    }
}
