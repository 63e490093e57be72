//! The folder of a store: whole files, each written before it has its name.

use crate::{Digest, Error, hex};
use aws_lc_rs::digest::{Context, SHA256};
use rustix::{
    fs::{
        AtFlags, Dir, FlockOperation, Mode, OFlags, ResolveFlags, flock, fsync, openat2, renameat, unlinkat,
    },
    io::Errno,
};
use std::{
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

/// What a store needs of a disk. Each call is durable when it returns.
pub trait Disk {
    /// Reads a file from its beginning.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>>;
    /// Writes a whole file, in place of one that may be there; a crash leaves any part of it.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file the name of another, which goes, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
}

/// A folder that nobody else changes meanwhile: locked, for readers together or for one who changes it.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens it to read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::lock(path, FlockOperation::NonBlockingLockShared)
    }

    /// Opens it to change it, or makes it.
    pub fn open_to_change(path: &Path) -> Result<Self, Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::lock(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(path: &Path, operation: FlockOperation) -> Result<Self, Error> {
        let folder = File::open(path)?;
        match flock(&folder, operation) {
            Ok(()) => Ok(Self(folder.into())),
            Err(Errno::WOULDBLOCK) => Err(Error::InUse),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    /// SHA-256 of a blob's file as it is now, whole: needs no key.
    pub fn sum(&self, sha256: &Digest) -> Result<Digest, Error> {
        sum(self, sha256)
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        Ok(openat2(&self.0, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, how)?.into())
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Disk for Folder {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        // Not for ever, where somebody put a pipe in a file's place.
        Ok(Box::new(self.file(name, OFlags::RDONLY | OFlags::NONBLOCK)?))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(fsync(&self.0)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        renameat(&self.0, from, &self.0, to)?;
        Ok(fsync(&self.0)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries =
            Dir::read_from(&self.0)?.map(|entry| Ok(entry?.file_name().to_str().unwrap_or("").to_owned()));
        let names: io::Result<Vec<String>> = entries.collect();
        Ok(names?.into_iter().filter(|name| !matches!(name.as_str(), "" | "." | "..")).collect())
    }
}

/// The name of a blob's file.
pub(crate) fn name(sha256: &Digest) -> String {
    format!("{}.blob", hex(sha256))
}

pub(crate) fn sum(disk: &impl Disk, sha256: &Digest) -> Result<Digest, Error> {
    let mut file = disk.open(&name(sha256)).map_err(|error| missing(error, sha256))?;
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 1 << 20]);
    // Nothing that this store wrote is longer; what is longer is not hashed for ever.
    for _ in 0..crate::blob::MAX_FILE.div_ceil(1 << 16) {
        match file.read(&mut buffer)? {
            0 => {
                let mut digest = Digest::default();
                digest.copy_from_slice(context.finish().as_ref());
                return Ok(digest);
            }
            read => context.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Err(Error::Blob(*sha256))
}

/// A file that is not there is a blob that was taken away.
pub(crate) fn missing(error: io::Error, sha256: &Digest) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::Blob(*sha256),
        _ => error.into(),
    }
}
