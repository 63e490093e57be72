//! The memory that functions reach.
#![allow(unsafe_code)]

use crate::sys;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// An IOMMU's address space. What was mapped is unmapped, and its pages are let go of, when this is dropped, at the
/// latest when the last process with the descriptor has ended.
#[derive(Debug)]
pub struct Container {
    fd: OwnedFd,
    maps: Vec<(u64, u64)>,
}

impl Container {
    /// A container that has an IOMMU and nothing mapped, as [`crate::Claim::connect`] makes it.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, maps: Vec::new() }
    }

    /// Lets the functions read and write `size` bytes of this process's memory at `address` when they use `iova`; all
    /// three in whole pages. The memory is locked and counts against this process's limit (RLIMIT_MEMLOCK).
    ///
    /// # Safety
    ///
    /// The functions may write there at any time, as another process would: no reference of Rust may point into it.
    pub unsafe fn map(&mut self, iova: u64, size: u64, address: u64) -> Result<(), Errno> {
        // SAFETY: the caller promises that no reference of Rust points into this memory.
        unsafe { sys::map(&self.fd, iova, size, address) }?;
        self.maps.push((iova, size));
        Ok(())
    }

    /// Nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// Takes all of it back. The functions must do no DMA any more: the IOMMU stops what comes late.
    pub fn unmap_all(&mut self) -> Result<(), Errno> {
        while let Some((iova, size)) = self.maps.pop() {
            let mut unmap = sys::Unmap { iova, size, ..Default::default() };
            sys::ask(&self.fd, sys::UNMAP_DMA, &mut unmap)?;
            if unmap.size != size {
                return Err(Errno::IO);
            }
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What fails here ends with the descriptor.
        let _ = self.unmap_all();
    }
}
