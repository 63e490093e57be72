//! One mapped file range.

use crate::{DmaMap, MapError, Sealing, Segment};
use rustix::{
    fs::{FileType, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    ptr::{NonNull, null_mut},
};

/// A file for guest memory: `len` zero bytes, sealed against shrinking and growing.
pub fn memfd(len: u64) -> Result<OwnedFd, Errno> {
    let file = memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, len)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A shared mapping of a file, removed on drop.
pub(crate) struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is no thread's own; access to its bytes goes through raw
// pointers and atomics only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `None` if the system cannot map it.
    pub(crate) fn new(file: &OwnedFd, map: &DmaMap, sealing: Sealing) -> Result<Option<Self>, MapError> {
        let Ok(stat) = fstat(file) else { return Ok(None) };
        let Ok(len) = usize::try_from(map.len) else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        if sealing == Sealing::Required && !never_shrinks(file) {
            return Err(MapError::Unsealed);
        }
        // The size is read after the seal is on: from then on it only grows. A seal added between is no race either.
        let size =
            fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).ok_or(MapError::Short)?;
        if map.offset.checked_add(map.len).is_none_or(|end| end > size) {
            return Err(MapError::Short);
        }
        let access = if map.writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let ptr = unsafe { mmap(null_mut(), len, access, flags, file, map.offset) };
        Ok(ptr.ok().and_then(|ptr| NonNull::new(ptr.cast())).map(|ptr| Self { ptr, len }))
    }

    /// At most `len` bytes from `offset`; `None` if that is no byte.
    #[inline]
    pub(crate) fn segment(&self, offset: u64, len: usize) -> Option<Segment> {
        let offset = usize::try_from(offset).ok()?;
        let len = len.min(self.len.checked_sub(offset)?);
        if len == 0 {
            return None;
        }
        // SAFETY: `offset` is below the mapping's length, so the result lies inside it.
        let ptr = unsafe { self.ptr.add(offset) };
        Some(Segment { ptr, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `ptr` and `len` are what `mmap` gave, and pointers into it are out of use by the contract of
        // `GuestMemory::unmap` and `clear`. An error would leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

fn never_shrinks(file: &impl AsFd) -> bool {
    let sealed = || fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    sealed() || (fcntl_add_seals(file, SealFlags::SHRINK).is_ok() && sealed())
}
