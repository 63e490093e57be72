//! Where things lie in a host's state folder, and reading them within bounds.

use super::Halt;
use service::process::Failure;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};
use tpm::Digest;

/// The folder.
#[derive(Debug, Clone)]
pub struct State(PathBuf);

impl State {
    /// Takes it.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Files and folders in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The sets of known-good measurements.
    pub fn known_good(&self) -> PathBuf {
        self.path("known-good.set")
    }

    /// The sealed secret of the firmware store.
    pub fn store_sealed(&self) -> PathBuf {
        self.path("store.sealed")
    }

    /// The sealed identity and log key.
    pub fn early_sealed(&self) -> PathBuf {
        self.path("early.sealed")
    }

    /// The firmware store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The signed configuration with this hash.
    pub fn configuration(&self, sha256: &Digest) -> PathBuf {
        self.path("configurations").join(hex(sha256))
    }

    /// Installs a signed configuration; durable on return.
    pub fn install_configuration(&self, sha256: &Digest, bytes: &[u8]) -> io::Result<()> {
        make_folder(&self.path("configurations"))?;
        service::write_atomic(&self.configuration(sha256), bytes)
    }

    /// Installs what the boot ROM and stage 1 read, not yet for the next start; durable on return.
    pub fn install_boot(&self, release: &Digest, files: &[(&str, &[u8])]) -> io::Result<()> {
        let folder = self.path("releases").join(short(release));
        make_folder(&folder)?;
        files.iter().try_for_each(|(name, bytes)| service::write_atomic(&folder.join(name), bytes))
    }

    /// Makes the next start one of this release, in one step; durable on return.
    pub fn switch_boot(&self, release: &Digest) -> io::Result<()> {
        let (next, boot) = (self.path("boot.next"), self.path("boot"));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(Path::new("releases").join(short(release)), &next)?,
        }
        fs::rename(next, boot)?;
        File::open(&self.0)?.sync_all()
    }

    /// Whether the next start is one of this release, or of none that was installed here.
    pub fn boots(&self, release: &Digest) -> bool {
        let boot = fs::read_link(self.path("boot"));
        boot.map_or(true, |boot| boot.file_name().is_some_and(|name| *name == *short(release)))
    }

    /// Takes away what belongs to neither of these releases and configurations. What stays goes another time.
    pub fn sweep(&self, releases: &[Digest], configurations: &[Digest]) {
        let releases: Vec<_> = releases.iter().map(short).collect();
        let configurations: Vec<_> = configurations.iter().map(hex).collect();
        for (folder, keep) in [("releases", releases), ("configurations", configurations)] {
            for entry in fs::read_dir(self.path(folder)).into_iter().flatten().flatten() {
                let kept =
                    entry.file_name().to_str().is_some_and(|name| keep.iter().any(|keep| keep == name));
                let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    _ if kept => Ok(()),
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                };
                if let Err(error) = removed {
                    tracing::warn!(%error, path = %entry.path().display(), "an old file stays");
                }
            }
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short(digest: &Digest) -> String {
    hex(digest).get(..16).unwrap_or_default().to_owned()
}

/// Reads a file of at most `most` bytes.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length <= most => Ok(bytes),
        Ok(_) => Err(format!("{}: longer than {most} bytes", path.display()).into()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// The same, where a start cannot go on without it.
pub fn need(path: &Path, most: usize, code: &'static str, entry: &str) -> Result<Vec<u8>, Halt> {
    read(path, most).map_err(|error| Halt::new(code, entry, &error.to_string()))
}
