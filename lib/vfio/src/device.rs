//! One function.

use crate::sys;
use rustix::io::{Errno, pread, pwrite};
use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use zerocopy::{FromBytes, IntoBytes};

/// Regions of a PCI function that are of use: six BARs, the ROM, configuration space.
const REGIONS: u32 = 8;
/// Room for a region's capabilities, in bytes.
const ROOM: usize = 1024;
/// Most interrupts that are set at once.
const MOST_IRQS: usize = 2048;

/// A part of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// From the region's start, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A BAR or configuration space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes; 0 for a region that does not exist.
    pub size: u64,
    /// Where it begins in [`Device::file`].
    pub offset: u64,
    /// It may be read.
    pub readable: bool,
    /// It may be written.
    pub writable: bool,
    /// It may be mapped: the parts, none meaning all of it.
    pub mappable: Option<Vec<Area>>,
}

/// A function. It is reset by the kernel when the last descriptor of it is closed, if it can be.
#[derive(Debug)]
pub struct Device {
    fd: Arc<OwnedFd>,
    regions: Vec<Region>,
    resettable: bool,
}

impl Device {
    /// Takes a function's descriptor and asks for its regions. `ENODEV`: not a PCI function.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let mut info = sys::DeviceInfo::default();
        sys::ask(&fd, sys::GET_INFO, &mut info)?;
        if info.flags & sys::DEVICE_PCI == 0 || info.regions < REGIONS {
            return Err(Errno::NODEV);
        }
        let regions = (0..REGIONS).map(|index| region(&fd, index)).collect::<Result<_, _>>()?;
        Ok(Self { fd: Arc::new(fd), regions, resettable: info.flags & sys::DEVICE_RESET != 0 })
    }

    /// The kernel knows a way to reset it: by itself, or its bus if it is alone there.
    pub const fn resettable(&self) -> bool {
        self.resettable
    }

    /// Resets it. BARs and interrupts as they were in the kernel stay.
    pub fn reset(&self) -> Result<(), Errno> {
        sys::reset(&self.fd)
    }

    /// The file whose parts are the regions, to be mapped.
    pub fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// A region: BAR n is region n, 6 the ROM, 7 configuration space.
    pub fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(usize::try_from(index).ok()?)
    }

    /// Reads from a region.
    pub fn read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let at = self.place(index, offset, data.len())?;
        whole(pread(&self.fd, &mut *data, at)?, data.len())
    }

    /// Writes to a region.
    pub fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let at = self.place(index, offset, data.len())?;
        whole(pwrite(&self.fd, data, at)?, data.len())
    }

    fn place(&self, index: u32, offset: u64, len: usize) -> Result<u64, Errno> {
        let region = self.region(index).ok_or(Errno::INVAL)?;
        let end = offset.checked_add(len as u64).filter(|end| *end <= region.size);
        end.and(region.offset.checked_add(offset)).ok_or(Errno::INVAL)
    }

    /// How many interrupts of a kind there are (2: MSI-X, 3: errors, 4: requests to give it back).
    pub fn irqs(&self, kind: u32) -> Result<u32, Errno> {
        let mut info = sys::IrqInfo { index: kind, ..Default::default() };
        sys::ask(&self.fd, sys::GET_IRQ_INFO, &mut info)?;
        Ok(info.count)
    }

    /// From now on the first interrupts of a kind signal these eventfds, and the others of the kind nobody.
    pub fn set_irqs(&self, kind: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let eventfds = eventfds.get(..eventfds.len().min(MOST_IRQS)).unwrap_or_default();
        let count = u32::try_from(eventfds.len()).map_err(|_| Errno::INVAL)?;
        let set = sys::IrqSet { flags: sys::IRQ_EVENTFD, index: kind, count, ..Default::default() };
        let numbers = eventfds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes());
        let mut bytes: Vec<u8> = set.as_bytes().iter().copied().chain(numbers).collect();
        sys::exchange(&self.fd, sys::SET_IRQS, &mut bytes)
    }

    /// Turns all interrupts of a kind off.
    pub fn disable_irqs(&self, kind: u32) -> Result<(), Errno> {
        let mut set = sys::IrqSet { flags: sys::IRQ_NONE, index: kind, ..Default::default() };
        sys::ask(&self.fd, sys::SET_IRQS, &mut set)
    }
}

fn whole(done: usize, wanted: usize) -> Result<(), Errno> {
    if done == wanted { Ok(()) } else { Err(Errno::IO) }
}

/// Asks for one region. The kernel says `EINVAL` of those that the function cannot have.
fn region(fd: &OwnedFd, index: u32) -> Result<Region, Errno> {
    let mut bytes = vec![0; size_of::<sys::RegionInfo>() + ROOM];
    let ask = sys::RegionInfo { index, ..Default::default() };
    ask.write_to_prefix(&mut bytes).map_err(|_| Errno::INVAL)?;
    match sys::exchange(fd, sys::GET_REGION_INFO, &mut bytes) {
        Err(Errno::INVAL) => return Ok(Region::default()),
        answer => answer?,
    }
    let (info, _) = sys::RegionInfo::read_from_prefix(&bytes).map_err(|_| Errno::IO)?;
    let has = |flag| info.flags & flag != 0;
    let mappable = if has(sys::REGION_MMAP) { Some(areas(&info, &bytes)?) } else { None };
    Ok(Region {
        size: info.size,
        offset: info.offset,
        readable: has(sys::REGION_READ),
        writable: has(sys::REGION_WRITE),
        mappable,
    })
}

/// The parts that may be mapped, where the kernel names some.
fn areas(info: &sys::RegionInfo, bytes: &[u8]) -> Result<Vec<Area>, Errno> {
    let mut at = if info.flags & sys::REGION_CAPS == 0 { 0 } else { info.capabilities as usize };
    while at != 0 {
        let rest = bytes.get(at..).ok_or(Errno::IO)?;
        let (head, rest) = sys::Capability::read_from_prefix(rest).map_err(|_| Errno::IO)?;
        if head.id == sys::CAP_SPARSE_MMAP {
            let (count, pairs) = <[u32; 2]>::read_from_prefix(rest).map_err(|_| Errno::IO)?;
            let pairs = pairs.as_chunks().0.get(..count[0] as usize).ok_or(Errno::IO)?;
            return pairs.iter().map(|pair| area(pair, info.size).ok_or(Errno::IO)).collect();
        }
        // Forwards only, so that it ends.
        at = Some(head.next as usize).filter(|next| *next == 0 || *next > at).ok_or(Errno::IO)?;
    }
    Ok(Vec::new())
}

fn area(pair: &[u8; 16], size: u64) -> Option<Area> {
    let ([offset, len], _) = <[u64; 2]>::read_from_prefix(pair).ok()?;
    offset.checked_add(len).filter(|end| *end <= size).map(|_| Area { offset, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A region's description with these capabilities behind it.
    fn described(size: u64, capabilities: &[u8]) -> (sys::RegionInfo, Vec<u8>) {
        let at = u32::try_from(size_of::<sys::RegionInfo>()).unwrap();
        let info = sys::RegionInfo { flags: sys::REGION_CAPS, capabilities: at, size, ..Default::default() };
        (info, [info.as_bytes(), capabilities].concat())
    }

    /// Head, then what belongs to it.
    fn capability(id: u16, next: u32, rest: &[u64]) -> Vec<u8> {
        let head = sys::Capability { id, version: 1, next };
        [head.as_bytes(), rest.as_bytes()].concat()
    }

    #[test]
    fn areas_are_found_behind_other_capabilities() {
        let list = [capability(3, 40, &[]), capability(1, 0, &[2, 0, 0x2000, 0x3000, 0x1000])].concat();
        let (info, bytes) = described(0x4000, &list);
        let found = [Area { offset: 0, len: 0x2000 }, Area { offset: 0x3000, len: 0x1000 }];
        assert_eq!(areas(&info, &bytes).unwrap(), found);
        let (small, _) = described(0x3000, &[]);
        assert_eq!(areas(&small, &bytes), Err(Errno::IO), "beyond the region's end");
        let (info, bytes) = described(0x4000, &capability(3, 0, &[]));
        assert_eq!(areas(&info, &bytes), Ok(Vec::new()), "all of it");
    }

    proptest! {
        #[test]
        fn any_list_ends(at in 0..80u32, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut info, bytes) = described(0x4000, &bytes);
            info.capabilities = at;
            if let Ok(areas) = areas(&info, &bytes) {
                prop_assert!(areas.iter().all(|area| area.offset + area.len <= 0x4000));
            }
        }
    }
}
