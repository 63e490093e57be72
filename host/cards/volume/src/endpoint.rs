//! The PCI function that a hypervisor sees: registers, configuration space, interrupts, guest memory.

use crate::{MAX_IN_FLIGHT, guest::Guest};
use guest_memory::{GuestMemory, MapError, Sealing};
use nvme::{Config, ConfigError, Controller, Effect, Tag, spec::Status};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use vfio_user::{
    DEFER, Device, DmaMap, Irq, IrqSet, Irqs, Region,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};

/// BAR 0 as EC2 guests see it: 16 KiB. Registers and doorbells, then the MSI-X table and pending bits.
const BAR_SIZE: u64 = 0x4000;
const TABLE: u32 = 0x2000;
const PENDING: u32 = 0x3000;
/// I/O queue pairs on offer.
const QUEUES: u16 = 32;

/// The function of one volume.
pub(crate) struct Endpoint {
    pub(crate) controller: Controller,
    pub(crate) guest: Guest,
    config: ConfigSpace,
    irqs: Irqs,
    regions: [Region; pci::REGIONS as usize],
    /// A call waits until nothing is in flight; until then no new commands are taken.
    pub(crate) draining: bool,
}

impl Endpoint {
    /// A function as after power on. `size` is the volume's in bytes.
    pub(crate) fn new(
        serial: String,
        device_name: String,
        size: u64,
        sealing: Sealing,
        now: u64,
    ) -> Result<Self, ConfigError> {
        let config = Config {
            serial,
            device_name,
            blocks: size / xts::SECTOR as u64,
            block_size: 512,
            io_queues: QUEUES,
            max_in_flight: MAX_IN_FLIGHT,
            // Completed writes are in the page cache or in the device's own cache: the guest must flush.
            volatile_write_cache: true,
        };
        let vectors = config.vectors();
        let identity =
            Identity { vendor: 0x1d0f, device: 0x8061, subsystem: 0x8061, revision: 0, class: [1, 8, 2] };
        let bar = Bar { index: 0, size: BAR_SIZE, prefetchable: false };
        let msix = Msix { vectors, bar: 0, table: TABLE, pending: PENDING };
        let mut regions: [Region; pci::REGIONS as usize] = Default::default();
        for (index, size) in [(pci::BAR0, BAR_SIZE), (pci::CONFIG, pci::CONFIG_SIZE as u64)] {
            if let Some(region) = regions.get_mut(index as usize) {
                *region = Region { size, readable: true, writable: true, mapping: None };
            }
        }
        Ok(Self {
            controller: Controller::new(config, now)?,
            guest: Guest(GuestMemory::new(sealing)),
            config: ConfigSpace::new(&identity, &[bar], &msix),
            irqs: Irqs::new([1, 0, vectors, 1, 1]),
            regions,
            draining: false,
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.controller.state().in_flight
    }

    /// Ends a command.
    pub(crate) fn complete(&mut self, index: u16, status: Status, now: u64) {
        self.controller.complete(&self.guest, Tag::from_index(index), status, now);
    }

    /// Raises the interrupts of what was completed.
    pub(crate) fn interrupt(&mut self) {
        for vector in self.controller.take_interrupts() {
            self.irqs.raise(pci::MSIX, vector);
        }
    }

    /// Whether the controller may look at its queues.
    pub(crate) fn runs(&self) -> bool {
        !self.draining && self.config.bus_master()
    }

    /// The hypervisor is gone. Guest memory is forgotten later, when nothing is in flight.
    pub(crate) fn disconnect(&mut self) {
        self.controller.reset();
        self.config.reset();
        self.irqs.disconnect();
        self.draining = true;
    }

    /// Forgets guest memory, after [`Endpoint::disconnect`] and once nothing is in flight.
    pub(crate) fn forget_memory(&mut self) {
        self.guest.0.clear();
        self.draining = false;
    }

    /// Defers what touches guest memory until nothing is in flight.
    fn drain(&mut self) -> Result<(), Errno> {
        self.draining = self.in_flight() > 0;
        if self.draining { Err(DEFER) } else { Ok(()) }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        if offset < u64::from(TABLE) {
            match self.controller.write(offset, data) {
                Effect::Reset => self.irqs.clear_pending(),
                Effect::None | Effect::Poll => {}
            }
        }
    }
}

impl Device for Endpoint {
    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        self.irqs.info(index)
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match region {
            pci::CONFIG => self.config.read(offset, data),
            _ if offset >= u64::from(PENDING) => {
                self.irqs.read_pending_bits(offset - u64::from(PENDING), data);
            }
            // The table is the hypervisor's.
            _ if offset >= u64::from(TABLE) => data.fill(0),
            _ => self.controller.read(offset, data),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if region != pci::CONFIG {
            self.write_bar(offset, data);
        } else if self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
            self.reset()?;
        }
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        self.guest.0.map(map, file).map_err(|error| {
            // The protocol carries an errno and no words.
            tracing::warn!(%error, "a DMA map is refused");
            if error == MapError::Unsealed {
                tracing::warn!("a card that serves this hypervisor alone takes it with --unsealed-memory");
            }
            error.into()
        })
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), Errno> {
        self.drain()?;
        Ok(self.guest.0.unmap(iova, len)?)
    }

    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        self.drain()?;
        self.guest.0.clear();
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.controller.reset();
        self.irqs.clear_pending();
        self.drain()?;
        self.config.reset();
        Ok(())
    }
}
