//! An image in memory that nobody can change any more.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{fs::File, io::Write, os::fd::OwnedFd};

use crate::Error;

/// Memory called `name` that `fill` writes, sealed then.
pub(crate) fn sealed(
    name: &str,
    fill: impl FnOnce(&mut File) -> Result<(), Error>,
) -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(memfd_create(name, flags).map_err(std::io::Error::from)?);
    fill(&mut memory)?;
    memory.flush()?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&memory, all).map_err(std::io::Error::from)?;
    Ok(memory.into())
}
