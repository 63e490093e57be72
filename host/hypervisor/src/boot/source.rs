//! Files that nobody can change any more.

use super::BootError;
use crate::memory::Memory;
use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat},
    io::{Errno, pread},
};
use sha2::{Digest, Sha256};
use std::{fmt::Write, ops::Range, os::fd::OwnedFd};

const CHUNK: usize = 256 << 10;

/// A sealed memory file: what is measured is what is loaded.
pub struct Source {
    name: &'static str,
    file: OwnedFd,
    len: u64,
}

impl Source {
    /// Takes a file; `name` is what errors call it.
    pub fn new(name: &'static str, file: OwnedFd) -> Result<Self, BootError> {
        let needed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(needed)) {
            return Err(BootError::Unsealed(name));
        }
        let size = fstat(&file).map_err(|error| BootError::Read(name, error))?.st_size;
        Ok(Self { name, file, len: u64::try_from(size).unwrap_or_default() })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Fills `data` from byte `offset` on.
    pub(super) fn read_at(&self, mut offset: u64, mut data: &mut [u8]) -> Result<(), BootError> {
        while !data.is_empty() {
            match pread(&self.file, &mut *data, offset) {
                Ok(0) => return Err(BootError::Format("it ends too soon")),
                Ok(done) => {
                    offset = offset.saturating_add(done as u64);
                    data = data.split_at_mut(done).1;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(BootError::Read(self.name, error)),
            }
        }
        Ok(())
    }

    /// Copies a range of it to guest address `to`.
    pub(super) fn copy(&self, memory: &Memory, range: Range<u64>, to: u64) -> Result<(), BootError> {
        self.each(range, |offset, data| Ok(memory.write(to.saturating_add(offset), data)?))
    }

    /// Its SHA-256 in hex.
    pub(super) fn sha256(&self) -> Result<String, BootError> {
        let mut hash = Sha256::new();
        self.each(0..self.len, |_, data| {
            hash.update(data);
            Ok(())
        })?;
        Ok(hex(&hash.finalize()))
    }

    /// Gives a range piece by piece, each with its offset from the range's start.
    fn each(
        &self,
        range: Range<u64>,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let mut buffer = vec![0; CHUNK];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            let (piece, _) = buffer.split_at_mut(len);
            self.read_at(at, piece)?;
            take(at - range.start, piece)?;
            at += len as u64;
        }
        Ok(())
    }
}

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
