//! The guest's memory: one file without a name, sealed in size, that only this process and the instance's cards
//! hold.

#![allow(unsafe_code)]

use crate::layout::{self, Region};
use guest_memory::{Access, AccessError, DmaMap, GuestMemory, Sealing, memfd};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create},
    io::{Errno, pread},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::null_mut,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Least memory of a machine in bytes.
pub const LEAST: u64 = 2 << 20;
/// Most memory of a machine in bytes: up to the 64-bit BARs of a processor that addresses a terabyte.
pub const MOST: u64 = 500 << 30;

/// Bytes that are copied at once; sizes of regions are multiples of it.
const COPY: usize = 2 << 20;

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little, too much, or no whole pages.
    #[error("memory of {0} bytes: ask for {LEAST} to {MOST}, in multiples of 2 MiB")]
    Size(u64),
    /// The system has not so much, or the file is none for guest memory.
    #[error("guest memory: {0}")]
    System(#[from] Errno),
    /// The file cannot back guest memory.
    #[error("guest memory: {0}")]
    File(#[from] guest_memory::MapError),
}

/// The memory of one machine.
pub struct Memory {
    file: OwnedFd,
    bytes: u64,
    regions: Vec<Region>,
    maps: Mutex<GuestMemory>,
}

impl Memory {
    /// New memory of `bytes`, all zero.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        check(bytes)?;
        Self::adopt(huge(bytes).or_else(|_| memfd(bytes))?)
    }

    /// The same, of large pages that the host set aside: all of it now, or none.
    pub fn reserved(bytes: u64) -> Result<Self, MemoryError> {
        check(bytes)?;
        Self::adopt(huge(bytes)?)
    }

    /// The memory of a machine that ran in another process.
    pub fn adopt(file: OwnedFd) -> Result<Self, MemoryError> {
        let bytes = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
        check(bytes)?;
        let regions = layout::memory(bytes);
        let mut maps = GuestMemory::new(Sealing::Required);
        for region in &regions {
            let map = DmaMap {
                iova: region.guest,
                len: region.len,
                offset: region.offset,
                readable: true,
                writable: true,
            };
            maps.map(map, Some(file.try_clone().map_err(|_| Errno::MFILE)?))?;
        }
        let memory = Self { file, bytes, regions, maps: Mutex::new(maps) };
        memory.regions.iter().for_each(|region| memory.prefer_huge(region));
        Ok(memory)
    }

    /// New memory with what is in the file of another machine's, which must stand still meanwhile.
    pub fn copy_of(file: &OwnedFd) -> Result<Self, MemoryError> {
        let memory = Self::new(u64::try_from(fstat(file)?.st_size).unwrap_or_default())?;
        let (mut buffer, mut offset) = (vec![0; COPY], 0);
        while offset < memory.bytes {
            // Read from the file and not from a mapping: that would make pages of its holes.
            let done = match pread(file, &mut buffer, offset) {
                Ok(0) => return Err(MemoryError::Size(offset)),
                Ok(done) => done,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let (data, _) = buffer.split_at(done);
            if data.iter().any(|byte| *byte != 0) {
                memory.write(memory.guest_address(offset), data).map_err(|_| MemoryError::Size(offset))?;
            }
            offset += done as u64;
        }
        Ok(memory)
    }

    /// Where a byte of the file lies in the guest's address space. Pieces of [`COPY`] bytes never cross a region's end.
    fn guest_address(&self, offset: u64) -> u64 {
        let region = self.regions.iter().rfind(|region| region.offset <= offset);
        region.map_or(offset, |region| region.guest + (offset - region.offset))
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it lies in the guest's address space and in [`Memory::file`].
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The file, for the instance's cards and nobody else.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Copies out of guest memory. On an error `data` holds what was copied so far.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), AccessError> {
        self.maps().read(address, data)
    }

    /// Copies into guest memory. On an error a part may be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        self.maps().write(address, data)
    }

    /// Where a region lies in this process, for KVM's memory slots; valid as long as `self`.
    pub(crate) fn host(&self, region: &Region) -> Option<u64> {
        let len = usize::try_from(region.len).ok()?;
        let segment = self.maps().segment(region.guest, len, Access::Write)?;
        (segment.len == len).then(|| segment.ptr.addr().get() as u64)
    }

    /// Lets the functions of a VFIO container use all of it, at the guest's own addresses.
    pub fn map_into(&self, container: &mut vfio::Container) -> Result<(), Errno> {
        for region in &self.regions {
            let host = self.host(region).ok_or(Errno::FAULT)?;
            // SAFETY: nothing but raw pointers and atomics reaches these bytes. Should the mapping end before the
            // container, the pages that it showed stay the memory file's.
            unsafe { container.map(region.guest, region.len, host) }?;
        }
        Ok(())
    }

    /// Large pages where the system makes them of small ones; where it does not, nothing changes.
    fn prefer_huge(&self, region: &Region) {
        let len = usize::try_from(region.len).unwrap_or_default();
        if let Some(segment) = self.maps().segment(region.guest, len, Access::Write) {
            // SAFETY: advice about this process's own mapping; it changes neither contents nor addresses.
            let _ = unsafe { madvise(segment.ptr.as_ptr().cast(), segment.len, Advice::LinuxHugepage) };
        }
    }

    fn maps(&self) -> MutexGuard<'_, GuestMemory> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sealed file of 2 MiB pages, reserved for it in the pool that the host set aside. It fails where there is no pool,
/// or not enough left in it.
fn huge(bytes: u64) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create("guest-memory", flags)?;
    ftruncate(&file, bytes)?;
    let len = usize::try_from(bytes).map_err(|_| Errno::FBIG)?;
    // A mapping that asks for a reservation gets all of it or fails. It belongs to the file and outlives the mapping.
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
    let mapping = unsafe { mmap(null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0) }?;
    // SAFETY: exactly what `mmap` gave; nothing points into it.
    unsafe { munmap(mapping, len) }?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn check(bytes: u64) -> Result<(), MemoryError> {
    if (LEAST..=MOST).contains(&bytes) && bytes.is_multiple_of(2 << 20) {
        Ok(())
    } else {
        Err(MemoryError::Size(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_cross_no_hole() {
        let memory = Memory::new(LEAST).unwrap();
        memory.write(LEAST - 4, b"tail").unwrap();
        let mut back = [0; 4];
        memory.read(LEAST - 4, &mut back).unwrap();
        assert_eq!(&back, b"tail");
        assert_eq!(memory.write(LEAST - 3, b"tail"), Err(AccessError::Unmapped(LEAST)));
        let memory = Memory::new((3 << 30) + LEAST).unwrap();
        memory.write((4 << 30) + LEAST - 1, &[7]).unwrap();
        assert!(memory.read(layout::LOW_END, &mut back).is_err());
        assert_eq!(memory.regions().len(), 2);
    }

    #[test]
    fn large_pages_are_reserved_or_small_ones_taken() {
        let pool = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
        let pages: u64 = pool.trim().parse().unwrap();
        let too_much = (pages + 1) * LEAST;
        assert!(Memory::reserved(too_much).is_err(), "all of it or none");
        let small = Memory::new(too_much).unwrap();
        small.write(too_much - 1, &[1]).unwrap();
        match huge(LEAST) {
            Ok(file) => Memory::adopt(file).unwrap().write(LEAST - 1, &[1]).unwrap(),
            Err(error) => println!("skipped: large_pages_are_reserved_or_small_ones_taken: no pool: {error}"),
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 4096, LEAST + 4096, MOST + LEAST] {
            assert!(matches!(Memory::new(bytes), Err(MemoryError::Size(_))), "{bytes}");
        }
    }

    #[test]
    fn memory_is_zero_before_anyone_gets_it() {
        for _ in 0..3 {
            let memory = Memory::new(LEAST).unwrap();
            let mut bytes = vec![1; usize::try_from(LEAST).unwrap()];
            memory.read(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
            memory.write(0, &vec![0xA5; bytes.len()]).unwrap();
        }
    }
}
