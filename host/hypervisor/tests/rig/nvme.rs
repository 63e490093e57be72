//! An NVMe function without storage: the controller of the volume card on its own, every command done at once.

use guest_memory::{GuestMemory, Sealing};
use nvme::{Backend, Config, Controller, Effect, Memory, MemoryFault, Operation, Request, Tag, spec::Status};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use vfio_user::{
    Device, DmaMap, Irq, IrqSet, Irqs, Region,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};

const BAR_SIZE: u64 = 0x4000;
const TABLE: u64 = 0x2000;
const VECTORS: u16 = 3;

pub struct NvmeFunction {
    controller: Controller,
    guest: Guest,
    config: ConfigSpace,
    irqs: Irqs,
    regions: Vec<Region>,
    now: u64,
}

struct Guest(GuestMemory);

impl Memory for Guest {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let length = into.len();
        self.0.read(address, into).map_err(|_| MemoryFault { address, length })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.0.write(address, from).map_err(|_| MemoryFault { address, length: from.len() })
    }

    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        self.0.load_u32(address).map_err(|_| MemoryFault { address, length: 4 })
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        self.0.store_u32(address, value).map_err(|_| MemoryFault { address, length: 4 })
    }
}

/// What was submitted: its tag, and where a read goes.
#[derive(Default)]
struct Submitted(Vec<(Tag, Vec<(u64, u32)>)>);

impl Backend for Submitted {
    fn submit(&mut self, request: &Request) {
        let fills = matches!(request.operation(), Operation::Read);
        let spans = request.spans().iter().filter(|_| fills).map(|span| (span.address, span.length));
        self.0.push((request.tag(), spans.collect()));
    }

    fn cancel(&mut self, _: Tag) -> bool {
        false
    }
}

impl NvmeFunction {
    pub fn new() -> Self {
        let config = Config {
            serial: "vol0123456789abcdef0".into(),
            device_name: "/dev/sdf".into(),
            blocks: 1000,
            block_size: 512,
            io_queues: VECTORS - 1,
            max_in_flight: 6,
            volatile_write_cache: true,
        };
        let identity =
            Identity { vendor: 0x1d0f, device: 0x8061, subsystem: 0, revision: 0, class: [1, 8, 2] };
        let bar = Bar { index: 0, size: BAR_SIZE, prefetchable: false };
        let msix = Msix { vectors: VECTORS, bar: 0, table: TABLE as u32, pending: 0x3000 };
        let mut regions = vec![Region::default(); pci::REGIONS as usize];
        for (index, size) in [(pci::BAR0, BAR_SIZE), (pci::CONFIG, pci::CONFIG_SIZE as u64)] {
            regions[index as usize] = Region { size, readable: true, writable: true, mapping: None };
        }
        Self {
            controller: Controller::new(config, 0).unwrap(),
            guest: Guest(GuestMemory::new(Sealing::Required)),
            config: ConfigSpace::new(&identity, &[bar], &msix),
            irqs: Irqs::new([0, 0, VECTORS, 1, 0]),
            regions,
            now: 0,
        }
    }

    fn work(&mut self) {
        self.now += 1_000_000;
        for _ in 0..4 {
            let mut submitted = Submitted::default();
            self.controller.poll(&self.guest, &mut submitted, 8, self.now);
            for (tag, spans) in submitted.0 {
                let wrote = spans.iter().all(|(address, length)| {
                    self.guest.write(*address, &vec![0x5A; *length as usize]).is_ok()
                });
                let status = if wrote { Status::SUCCESS } else { Status::DATA_TRANSFER_ERROR };
                self.controller.complete(&self.guest, tag, status, self.now);
            }
        }
        for vector in self.controller.take_interrupts() {
            self.irqs.raise(pci::MSIX, vector);
        }
    }
}

impl Device for NvmeFunction {
    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        self.irqs.info(index)
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match region {
            pci::CONFIG => self.config.read(offset, data),
            _ if offset < TABLE => self.controller.read(offset, data),
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if region != pci::CONFIG {
            if offset < TABLE && self.controller.write(offset, data) == Effect::Reset {
                self.irqs.clear_pending();
            }
        } else if self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
            self.reset()?;
        }
        if self.config.bus_master() {
            self.work();
        }
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        Ok(self.guest.0.map(map, file)?)
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), Errno> {
        Ok(self.guest.0.unmap(iova, len)?)
    }

    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        self.guest.0.clear();
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.controller.reset();
        self.irqs.clear_pending();
        self.config.reset();
        Ok(())
    }
}
