//! The folder with the log's segments.

use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FlockOperation, Mode, OFlags, ResolveFlags, fallocate, flock, fsync,
    openat2, unlinkat,
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Longest segment in bytes.
pub(super) const MAX_SEGMENT: u64 = 8 * 1024 * 1024;
const SUFFIX: &str = ".segment";

/// The folder. Whoever has it open is the only one who writes there.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens and locks it; `None` if another has it.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(folder))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The numbers of its segments, in order. Files with other names are no segments.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let number =
                entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            numbers.extend(number.filter(|number| name(*number).as_bytes() == entry.file_name().to_bytes()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes the file of a new segment, durably, with room for `length` bytes of zeros where the file system can.
    pub(super) fn create(&self, number: u64, length: u64) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.at(number, flags, Mode::RUSR | Mode::WUSR)?;
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, length) {
            tracing::debug!(%error, "the log grows as it is written");
        }
        file.sync_all()?;
        self.sync()?;
        Ok(file)
    }

    /// Opens a segment to read it.
    pub(super) fn get(&self, number: u64) -> io::Result<File> {
        self.at(number, OFlags::RDONLY, Mode::empty())
    }

    /// A segment's bytes.
    pub(super) fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = self.get(number)?.take(MAX_SEGMENT + 1).read_to_end(&mut bytes)?;
        if length as u64 > MAX_SEGMENT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    /// Cuts off what is behind the first `length` bytes of a segment; of nothing, nothing is left.
    pub(super) fn cut(&self, number: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            self.remove(number)?;
            return self.sync();
        }
        let file = self.at(number, OFlags::WRONLY, Mode::empty())?;
        file.set_len(length)?;
        file.sync_all()
    }

    /// Takes a segment away.
    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        Ok(unlinkat(&self.0, name(number), AtFlags::empty())?)
    }

    /// Makes durable which segments there are.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(self.0.as_fd())?)
    }

    fn at(&self, number: u64, flags: OFlags, mode: Mode) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat2(&self.0, name(number), flags, mode, resolve)?.into())
    }
}

fn name(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}
