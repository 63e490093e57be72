//! Where one installation keeps its state: a folder for each room, so that no room needs another's.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Longest path of a Unix socket that every system takes (`sockaddr_un` has 108 bytes, one for the end).
const MAX_SOCKET_PATH: usize = 107;
/// Room for the longest socket name below `run/`, or a function's below `functions/`.
const LONGEST_SOCKET: usize = "/functions/vol-0123456789abcdef0.sock".len();

/// The state folder of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// Takes the folder, which need not exist.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let folder = std::path::absolute(folder)?;
        if folder.as_os_str().len() + LONGEST_SOCKET > MAX_SOCKET_PATH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: too long for the sockets in it; give a shorter --state", folder.display()),
            ));
        }
        Ok(Self(folder))
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

    /// Every file below it, for the demo's search for secrets.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let (mut found, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
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
        assert!(Place::new(&deep).unwrap_err().to_string().contains("shorter --state"));
        assert!(Place::new(Path::new("/tmp/azote")).is_ok());
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
