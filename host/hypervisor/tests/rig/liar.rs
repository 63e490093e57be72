//! A card that says of its function what a fuzzer makes up.

use super::device::TestDevice;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
};
use std::{os::fd::OwnedFd, sync::Arc};
use vfio_user::{
    Area, Device, DeviceInfo, DmaMap, IoEvent, Irq, IrqSet, Region, RegionMapping,
    pci::{CONFIG, REGIONS},
};

pub struct Liar {
    device: TestDevice,
    regions: Vec<Region>,
    events: Vec<IoEvent>,
    /// Offset and value of bytes in configuration space.
    config: Vec<(u8, u8)>,
    vectors: u32,
    /// Every so many accesses fail; 0 for none.
    fails: u8,
    accesses: u8,
}

impl Liar {
    pub fn new(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        let device = TestDevice::new(None, None);
        let mut regions: Vec<Region> =
            (0..REGIONS).map(|index| device.region(index).cloned().unwrap_or_default()).collect();
        for (index, region) in regions.iter_mut().enumerate().take(6) {
            let (what, shift) = (byte(2 * index), byte(2 * index + 1));
            if what & 1 != 0 {
                region.size = u64::from(what) << (shift % 60);
                let file = guest_memory::memfd(0x4000).map(Arc::new);
                let at = |at: usize| u64::from(byte(at)) << 9;
                let inside = |area: &Area| area.offset + area.len <= region.size;
                let areas = [Area { offset: at(12), len: at(13) }, Area { offset: at(14), len: at(15) }];
                let areas: Vec<Area> = areas.into_iter().filter(inside).collect();
                region.mapping = file.ok().filter(|_| what & 2 != 0).map(|file| RegionMapping {
                    file,
                    offset: at(16),
                    areas,
                });
                (region.readable, region.writable) = (what & 4 == 0, what & 8 == 0);
            }
        }
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map(Arc::new);
        let event = |at: usize| IoEvent {
            offset: u64::from(byte(at)) << (byte(at + 1) & 63),
            size: u64::from(byte(at + 2) & 15),
            value: (byte(at + 2) & 16 != 0).then_some(7),
            eventfd: eventfd.clone().unwrap(),
        };
        let events = (0..usize::from(byte(17) & 7)).map(|index| event(18 + 3 * index)).collect();
        let config = bytes.get(40..).unwrap_or_default().chunks_exact(2).map(|pair| (pair[0], pair[1]));
        Self {
            device,
            regions,
            events,
            config: config.collect(),
            vectors: u32::from(byte(38)),
            fails: byte(39),
            accesses: 0,
        }
    }

    fn access(&mut self) -> Result<(), Errno> {
        self.accesses = self.accesses.wrapping_add(1);
        if self.fails > 0 && self.accesses.is_multiple_of(self.fails) { Err(Errno::IO) } else { Ok(()) }
    }
}

impl Device for Liar {
    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        Some(Irq { count: self.vectors, ..self.device.irq(index)? })
    }

    fn io_events(&self, _: u32) -> Vec<IoEvent> {
        self.events.clone()
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.access()?;
        if region != CONFIG {
            data.fill(0xA5);
            return Ok(());
        }
        self.device.region_read(region, offset, data)?;
        for (at, value) in &self.config {
            if let Some(byte) =
                u64::from(*at).checked_sub(offset).and_then(|at| data.get_mut(usize::try_from(at).ok()?))
            {
                *byte = *value;
            }
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.access()?;
        if region == CONFIG { self.device.region_write(region, offset, data) } else { Ok(()) }
    }

    fn dma_map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        self.device.dma_map(map, file)
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), Errno> {
        self.device.dma_unmap(iova, len)
    }

    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        self.device.dma_unmap_all()
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.device.set_irqs(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.device.reset()
    }
}
