//! Guest memory as a card sees it: the table of DMA maps that a hypervisor gave, and access through it.
//!
//! Each map says "this range of bus addresses is that range of this file"; the card maps the file and reads and
//! writes it in place. It is no IOMMU, translates nothing else, and knows neither vfio-user nor any device.
//!
//! Trust boundary: both the guest and the hypervisor are on the other side. Addresses and lengths come from the
//! guest, so every access is checked against the table and its rights. The guest writes while the card reads, so
//! no Rust reference to guest memory ever exists: copies go word by word through atomics, and what was read is a
//! private copy that must be checked *after* reading it. The files come from the hypervisor, which could shrink
//! one and kill the card with `SIGBUS`; so by default only files sealed against shrinking are taken
//! ([`Sealing`]).

mod copy;
mod mapping;

use mapping::Mapping;
use rustix::io::Errno;
use std::{cell::Cell, os::fd::OwnedFd, ptr::NonNull, sync::atomic::Ordering};

pub use mapping::memfd;

/// Most maps that one card holds at once.
pub const MAX_MAPS: usize = 1024;

/// A range of bus addresses and the range of a file that backs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaMap {
    /// First bus address.
    pub iova: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// Where the range starts in the file, in bytes.
    pub offset: u64,
    /// The device may read it.
    pub readable: bool,
    /// The device may write it.
    pub writable: bool,
}

/// Which files may back guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sealing {
    /// Only files that can never shrink (`F_SEAL_SHRINK`; the seal is added where the file still allows it).
    /// QEMU's `memory-backend-memfd` and [`memfd`] are such files.
    #[default]
    Required,
    /// Any file. Needed for hypervisors whose memory cannot be sealed: Cloud Hypervisor makes its memfd without
    /// `MFD_ALLOW_SEALING`, and files on tmpfs or hugetlbfs never can be. Chosen only where one card process
    /// serves one hypervisor: one that shrinks the file kills that card with `SIGBUS` at the next access, as if
    /// the card had been unplugged. Nothing catches the signal; what the card had acknowledged as durable stays.
    Optional,
}

/// What the device wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device reads guest memory.
    Read,
    /// The device writes guest memory.
    Write,
}

/// A piece of guest memory that is contiguous in this process, for io_uring and for ciphers that work in place.
///
/// The pointer is valid until the map is removed. Whoever takes one must be done with it before it calls
/// [`GuestMemory::unmap`] or [`GuestMemory::clear`], and must remember that the guest writes there at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// Length in bytes, never 0.
    pub len: usize,
}

/// Why a map was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Empty, or past the end of the address space.
    #[error("a DMA map needs a length above 0 and must end within 64-bit addresses")]
    Range,
    /// Some address of it is mapped already.
    #[error("the DMA map overlaps one that exists; unmap that first")]
    Overlap,
    /// [`MAX_MAPS`] are there.
    #[error("there are {MAX_MAPS} DMA maps already; unmap some")]
    Full,
    /// The file ends before the map does.
    #[error("the file behind the DMA map is shorter than offset + length")]
    Short,
    /// [`Sealing::Required`], and the file may shrink.
    #[error(
        "the file behind the DMA map can shrink; use a memfd that can be sealed with F_SEAL_SHRINK, or take any file \
         in a process that serves one hypervisor alone"
    )]
    Unsealed,
    /// To unmap: no map is exactly this.
    #[error("no DMA map has exactly this address and length")]
    Unknown,
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Range | MapError::Short => Self::INVAL,
            MapError::Overlap => Self::EXIST,
            MapError::Full => Self::NOSPC,
            MapError::Unsealed => Self::PERM,
            MapError::Unknown => Self::NOENT,
        }
    }
}

/// Why guest memory could not be accessed. The address is the guest's: refuse the command that named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not mapped, or mapped without a usable file.
    #[error("bus address {0:#x} is not in usable guest memory")]
    Unmapped(u64),
    /// Mapped without this right.
    #[error("guest memory at bus address {0:#x} does not allow this access")]
    Denied(u64),
    /// A single load or store must be aligned to its size.
    #[error("bus address {0:#x} is not aligned to the size of the access")]
    Unaligned(u64),
}

struct Map {
    iova: u64,
    len: u64,
    readable: bool,
    writable: bool,
    host: Option<Mapping>,
}

/// The DMA maps of one card.
pub struct GuestMemory {
    /// Sorted by address, never overlapping.
    maps: Vec<Map>,
    /// Index of the map that was hit last: nearly every access hits the same one.
    last: Cell<usize>,
    sealing: Sealing,
}

impl GuestMemory {
    /// An empty table.
    pub const fn new(sealing: Sealing) -> Self {
        Self { maps: Vec::new(), last: Cell::new(0), sealing }
    }

    /// Adds a map. Without a file, or with one that cannot be mapped (not a regular file, offset or access mode
    /// that `mmap` refuses), it is kept and every access to it fails: firmware ROMs come like that.
    pub fn map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), MapError> {
        let last =
            map.len.checked_sub(1).and_then(|rest| map.iova.checked_add(rest)).ok_or(MapError::Range)?;
        let at = self.maps.partition_point(|other| other.iova <= last);
        if at > 0 && self.maps.get(at - 1).is_some_and(|other| other.iova + (other.len - 1) >= map.iova) {
            return Err(MapError::Overlap);
        }
        if self.maps.len() >= MAX_MAPS {
            return Err(MapError::Full);
        }
        let host = match file {
            Some(file) => Mapping::new(&file, &map, self.sealing)?,
            None => None,
        };
        let DmaMap { iova, len, readable, writable, .. } = map;
        self.maps.insert(at, Map { iova, len, readable, writable, host });
        self.last.set(at);
        Ok(())
    }

    /// Removes the map that is exactly this. All [`Segment`]s of it must be out of use.
    pub fn unmap(&mut self, iova: u64, len: u64) -> Result<(), MapError> {
        let at = self.maps.binary_search_by_key(&iova, |map| map.iova).map_err(|_| MapError::Unknown)?;
        if self.maps.get(at).is_none_or(|map| map.len != len) {
            return Err(MapError::Unknown);
        }
        self.maps.remove(at);
        Ok(())
    }

    /// Removes all maps. All [`Segment`]s must be out of use.
    pub fn clear(&mut self) {
        self.maps.clear();
    }

    /// Contiguous guest memory at `iova`: at most `len` bytes, fewer where a map ends, so callers loop.
    /// `None` where nothing usable is mapped or the access is not allowed.
    pub fn segment(&self, iova: u64, len: usize, access: Access) -> Option<Segment> {
        self.find(iova, len, access).ok()
    }

    /// Copies guest memory out; the range may cross maps that touch. On an error `data` holds what was copied so far.
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let segment = self.find(iova.wrapping_add(done as u64), rest.len(), Access::Read)?;
            let (part, _) = rest.split_at_mut(segment.len);
            copy::load(segment, part);
            done += segment.len;
        }
        Ok(())
    }

    /// Copies into guest memory; the range may cross maps that touch. On an error a part may be written.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let segment = self.find(iova.wrapping_add(done as u64), rest.len(), Access::Write)?;
            let (part, _) = rest.split_at(segment.len);
            copy::store(segment, part);
            done += segment.len;
        }
        Ok(())
    }

    /// Loads a little-endian word once, ordered before everything that the caller reads after it.
    pub fn load_u16(&self, iova: u64) -> Result<u16, AccessError> {
        let word = self.word(iova, Access::Read)?;
        Ok(u16::from_le(copy::atomic_u16(&word).load(Ordering::Acquire)))
    }

    /// Loads a little-endian word once, ordered before everything that the caller reads after it.
    pub fn load_u32(&self, iova: u64) -> Result<u32, AccessError> {
        let word = self.word(iova, Access::Read)?;
        Ok(u32::from_le(copy::atomic_u32(&word).load(Ordering::Acquire)))
    }

    /// Stores a little-endian word once, ordered after everything that the caller wrote before it.
    pub fn store_u16(&self, iova: u64, value: u16) -> Result<(), AccessError> {
        let word = self.word(iova, Access::Write)?;
        copy::atomic_u16(&word).store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Stores a little-endian word once, ordered after everything that the caller wrote before it.
    pub fn store_u32(&self, iova: u64, value: u32) -> Result<(), AccessError> {
        let word = self.word(iova, Access::Write)?;
        copy::atomic_u32(&word).store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// An aligned word that lies within one map.
    fn word<const SIZE: usize>(&self, iova: u64, access: Access) -> Result<copy::Word<SIZE>, AccessError> {
        copy::Word::new(self.find(iova, SIZE, access)?).ok_or(AccessError::Unaligned(iova))
    }

    #[inline]
    fn find(&self, iova: u64, len: usize, access: Access) -> Result<Segment, AccessError> {
        let holds = |map: &&Map| iova.wrapping_sub(map.iova) < map.len;
        let map = match self.maps.get(self.last.get()).filter(holds) {
            Some(map) => map,
            None => {
                let after = self.maps.partition_point(|map| map.iova <= iova);
                let at = after.wrapping_sub(1);
                let map = self.maps.get(at).filter(holds).ok_or(AccessError::Unmapped(iova))?;
                self.last.set(at);
                map
            }
        };
        let allowed = match access {
            Access::Read => map.readable,
            Access::Write => map.writable,
        };
        if !allowed {
            return Err(AccessError::Denied(iova));
        }
        let host = map.host.as_ref().ok_or(AccessError::Unmapped(iova))?;
        host.segment(iova - map.iova, len).ok_or(AccessError::Unmapped(iova))
    }
}

#[cfg(test)]
mod tests;
