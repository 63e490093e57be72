//! What a card implements.

use crate::pci;
use guest_memory::DmaMap;
use rustix::io::Errno;
use std::{os::fd::OwnedFd, sync::Arc};

/// A [`Device`] returns this where it must first finish DMA in flight. The message stays unanswered, nothing after
/// it is read, and the same call comes again at the next [`Session::step`](crate::Session::step).
pub const DEFER: Errno = Errno::AGAIN;

/// What `DEVICE_GET_INFO` tells. All devices are PCI functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number of regions; [`pci::REGIONS`](crate::pci::REGIONS) for a PCI function.
    pub regions: u32,
    /// Number of interrupt indexes; [`pci::IRQS`](crate::pci::IRQS) for a PCI function.
    pub irqs: u32,
    /// `DEVICE_RESET` works.
    pub resettable: bool,
}

/// One region: a BAR or configuration space.
#[derive(Debug, Clone, Default)]
pub struct Region {
    /// Bytes; 0 for a region that does not exist.
    pub size: u64,
    /// The client may read it.
    pub readable: bool,
    /// The client may write it.
    pub writable: bool,
    /// The part that the client may map.
    pub mapping: Option<RegionMapping>,
}

/// Memory of the server behind a region, for the client to map.
#[derive(Debug, Clone)]
pub struct RegionMapping {
    /// Sent with the region's description.
    pub file: Arc<OwnedFd>,
    /// File offset of the region's first byte: an area is at this plus its own offset.
    pub offset: u64,
    /// Where the region may be mapped; empty means all of it. Page-aligned, and never on the MSI-X table, which
    /// Cloud Hypervisor would map as given.
    pub areas: Vec<Area>,
}

/// A part of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// From the region's start, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A part of a region whose writes may be an eventfd signal instead of a message (`GET_REGION_IO_FDS`).
#[derive(Debug, Clone)]
pub struct IoEvent {
    /// From the region's start, in bytes.
    pub offset: u64,
    /// Size of the write in bytes; 0 means any.
    pub size: u64,
    /// Only writes of this value.
    pub value: Option<u64>,
    /// Signalled by the hypervisor's kernel. May be shared by several parts.
    pub eventfd: Arc<OwnedFd>,
}

/// What `DEVICE_GET_IRQ_INFO` tells of one interrupt index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irq {
    /// Number of interrupts.
    pub count: u32,
    /// Eventfds can be set.
    pub eventfd: bool,
    /// Can be masked and unmasked.
    pub maskable: bool,
    /// New interrupts need all of the index disabled first.
    pub no_resize: bool,
}

/// One `DEVICE_SET_IRQS` within the bounds of its index.
#[derive(Debug)]
pub struct IrqSet<'a> {
    /// Interrupt index, as in [`pci`](crate::pci).
    pub index: u32,
    /// First interrupt.
    pub start: u32,
    /// How many. 0 only with [`IrqAction::Trigger`], [`IrqData::None`] and start 0: disable the whole index.
    pub count: u32,
    /// What happens to them.
    pub action: IrqAction,
    /// To which of them, or by which descriptors.
    pub data: IrqData<'a>,
}

/// What `DEVICE_SET_IRQS` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// Hold them back.
    Mask,
    /// Let them go again.
    Unmask,
    /// Raise them, or with eventfds: how to raise them from now on.
    Trigger,
}

/// What `DEVICE_SET_IRQS` carries.
#[derive(Debug)]
pub enum IrqData<'a> {
    /// All of the range.
    None,
    /// One byte for each of the range; not 0 means this one.
    Bool(&'a [u8]),
    /// One eventfd for each of the range, or none at all to take those of the range away.
    Eventfds(Vec<OwnedFd>),
}

/// A device behind a [`Session`](crate::Session). Offsets and lengths are checked against the region before a call.
/// An error is sent to the client as its errno.
pub trait Device {
    /// The numbers of regions and interrupts: those of a PCI function that can be reset.
    fn info(&self) -> DeviceInfo {
        DeviceInfo { regions: pci::REGIONS, irqs: pci::IRQS, resettable: true }
    }

    /// One region; `None` beyond the last.
    fn region(&self, index: u32) -> Option<&Region>;

    /// One interrupt index; `None` beyond the last.
    fn irq(&self, index: u32) -> Option<Irq>;

    /// The parts of a region that can be written by eventfd.
    fn io_events(&self, _region: u32) -> Vec<IoEvent> {
        Vec::new()
    }

    /// Fills `data` from a region.
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes a region. May [`DEFER`], for a function level reset.
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Guest memory is there. QEMU maps and unmaps it while firmware uses the device, and sends maps without a
    /// file: keep them as unusable, as [`guest_memory::GuestMemory`] does. A function that does no DMA forgets them.
    fn dma_map(&mut self, _map: DmaMap, _file: Option<OwnedFd>) -> Result<(), Errno> {
        Ok(())
    }

    /// Guest memory goes away: no DMA may touch it after the answer. Queues in it stay, because it often comes
    /// back under the same address. May [`DEFER`].
    fn dma_unmap(&mut self, _iova: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// As [`dma_unmap`](Self::dma_unmap), for all maps. May [`DEFER`].
    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// Changes interrupts; [`Irqs::set`](crate::Irqs::set) does it.
    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno>;

    /// Back to the state after power on, with maps and interrupts kept. May [`DEFER`].
    fn reset(&mut self) -> Result<(), Errno>;
}
