//! A small device: a BAR that is plain memory, with a "copy" register that does DMA and raises an interrupt.

use guest_memory::{DmaMap, GuestMemory, Sealing};
use rustix::io::Errno;
use std::{os::fd::OwnedFd, sync::Arc};
use vfio_user::{
    Area, DEFER, Device, IoEvent, Irq, IrqSet, Irqs, Region, RegionMapping,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};

/// Bytes of the BAR.
pub(crate) const BAR_SIZE: usize = 0x4000;
/// Writing an address here copies 8 bytes from there to 8 bytes further, and raises MSI-X vector 0.
pub(crate) const COPY: u64 = 0x100;
/// Where the BAR may be mapped.
pub(crate) const SHARED: u64 = 0x1000;
/// MSI-X vectors.
pub(crate) const VECTORS: u16 = 33;

pub(crate) struct TestDevice {
    pub(crate) memory: GuestMemory,
    pub(crate) irqs: Irqs,
    pub(crate) bar: Vec<u8>,
    pub(crate) resets: usize,
    /// So many calls that may be deferred will be.
    pub(crate) deferrals: usize,
    config: ConfigSpace,
    regions: Vec<Region>,
    events: Vec<IoEvent>,
}

impl TestDevice {
    /// `shared` is the file behind the mappable part of the BAR, `doorbell` an eventfd for two parts.
    pub(crate) fn new(shared: Option<OwnedFd>, doorbell: Option<OwnedFd>) -> Self {
        let mut regions = vec![Region::default(); pci::REGIONS as usize];
        let mapping = shared.map(|file| RegionMapping {
            file: Arc::new(file),
            offset: 0,
            areas: vec![Area { offset: SHARED, len: 0x1000 }],
        });
        regions[pci::BAR0 as usize] =
            Region { size: BAR_SIZE as u64, readable: true, writable: true, mapping };
        regions[pci::CONFIG as usize] =
            Region { size: pci::CONFIG_SIZE as u64, readable: true, writable: true, mapping: None };
        let identity =
            Identity { vendor: 0x1d0f, device: 0x8061, subsystem: 0, revision: 1, class: [1, 8, 2] };
        let bar = Bar { index: 0, size: BAR_SIZE as u64, prefetchable: false };
        let msix = Msix { vectors: VECTORS, bar: 0, table: 0x2000, pending: 0x3000 };
        let doorbell = doorbell.map(Arc::new);
        let event = |eventfd: &Arc<OwnedFd>, offset, value| IoEvent {
            offset,
            size: 4,
            value,
            eventfd: eventfd.clone(),
        };
        let events = doorbell.iter().flat_map(|fd| [event(fd, 0x1000, None), event(fd, 0x1004, Some(7))]);
        Self {
            memory: GuestMemory::new(Sealing::Required),
            irqs: Irqs::new([0, 0, VECTORS, 1, 0]),
            bar: vec![0; BAR_SIZE],
            resets: 0,
            deferrals: 0,
            config: ConfigSpace::new(&identity, &[bar], &msix),
            events: events.collect(),
            regions,
        }
    }

    fn drained(&mut self) -> Result<(), Errno> {
        match self.deferrals.checked_sub(1) {
            Some(left) => {
                self.deferrals = left;
                Err(DEFER)
            }
            None => Ok(()),
        }
    }
}

impl Device for TestDevice {
    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        self.irqs.info(index)
    }

    fn io_events(&self, region: u32) -> Vec<IoEvent> {
        if region == pci::BAR0 { self.events.clone() } else { Vec::new() }
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match region {
            pci::CONFIG => self.config.read(offset, data),
            _ if offset >= 0x3000 => self.irqs.read_pending_bits(offset - 0x3000, data),
            _ => {
                let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
                let from = self.bar.get(offset..offset + data.len()).ok_or(Errno::INVAL)?;
                data.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.drained()?;
        if region == pci::CONFIG {
            if self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
                self.config.reset();
                self.resets += 1;
            }
            return Ok(());
        }
        let at = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        self.bar.get_mut(at..at + data.len()).ok_or(Errno::INVAL)?.copy_from_slice(data);
        if offset == COPY {
            let from = u64::from_le_bytes(data.try_into().map_err(|_| Errno::INVAL)?);
            let mut bytes = [0; 8];
            self.memory.read(from, &mut bytes).map_err(|_| Errno::FAULT)?;
            self.memory.write(from.wrapping_add(8), &bytes).map_err(|_| Errno::FAULT)?;
            self.irqs.raise(pci::MSIX, 0);
        }
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        Ok(self.memory.map(map, file)?)
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), Errno> {
        self.drained()?;
        Ok(self.memory.unmap(iova, len)?)
    }

    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        self.drained()?;
        self.memory.clear();
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.drained()?;
        self.config.reset();
        self.resets += 1;
        Ok(())
    }
}
