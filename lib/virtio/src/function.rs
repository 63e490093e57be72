//! The PCI function of a device (virtio 1.3, 4.1).

use crate::{
    queue::{Broken, Queue},
    transport::{LENGTH, Transport, Written},
};
use guest_memory::{GuestMemory, Sealing};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use vfio_user::{
    Device, DmaMap, Irq, IrqSet, Irqs, Region,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};

/// BAR 0: registers, interrupt status, notifications, then the MSI-X table and pending bits.
const BAR_SIZE: u64 = 0x4000;
const STATUS: u64 = 0x400;
const NOTIFY: u64 = 0x1000;
const TABLE: u32 = 0x2000;
const PENDING: u32 = 0x3000;

const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
const VENDOR_SPECIFIC: u8 = 0x09;
/// In the capability for access through configuration space: BAR, offset, length, data.
const WINDOW_BAR: u64 = 4;
const WINDOW_OFFSET: u64 = 8;
const WINDOW_LENGTH: u64 = 12;
const WINDOW_DATA: u64 = 16;

/// What kind of device it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind<'a> {
    /// virtio's number for it.
    pub device: u16,
    /// PCI base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Largest sizes of its queues.
    pub queues: &'a [u16],
}

/// One function, as a hypervisor sees it.
pub struct Function {
    transport: Transport,
    memory: GuestMemory,
    config: ConfigSpace,
    /// Where the capability for access through configuration space is.
    window: u64,
    irqs: Irqs,
    regions: [Region; pci::REGIONS as usize],
    status: u8,
    notified: bool,
}

impl Function {
    /// A function as after power on.
    pub fn new(kind: &Kind<'_>, sealing: Sealing) -> Self {
        let device = FIRST_DEVICE + kind.device;
        let identity = Identity { vendor: VENDOR, device, subsystem: device, revision: 1, class: kind.class };
        // One for the device, one for each queue.
        let vectors = u16::try_from(kind.queues.len()).unwrap_or(0).saturating_add(1);
        let bar = Bar { index: 0, size: BAR_SIZE, prefetchable: false };
        let msix = Msix { vectors, bar: 0, table: TABLE, pending: PENDING };
        let mut config = ConfigSpace::new(&identity, &[bar], &msix);
        let window = add_capabilities(&mut config);
        let mut regions: [Region; pci::REGIONS as usize] = Default::default();
        for (index, size) in [(pci::BAR0, BAR_SIZE), (pci::CONFIG, pci::CONFIG_SIZE as u64)] {
            if let Some(region) = regions.get_mut(index as usize) {
                *region = Region { size, readable: true, writable: true, mapping: None };
            }
        }
        Self {
            transport: Transport::new(0, kind.queues, vectors),
            memory: GuestMemory::new(sealing),
            config,
            window: u64::from(window),
            irqs: Irqs::new([0, 0, vectors, 1, 1]),
            regions,
            status: 0,
            notified: false,
        }
    }

    /// Whether the driver has said, since this was last asked, that there is something in a queue.
    pub fn take_notification(&mut self) -> bool {
        std::mem::take(&mut self.notified)
    }

    /// Whether a driver works with the device.
    pub fn runs(&self) -> bool {
        self.transport.runs() && self.config.bus_master()
    }

    /// Works on a queue, if the driver works with the device and has enabled it: `work` says whether the driver is to be
    /// interrupted. A broken queue stops the device until the driver resets it.
    pub fn serve(
        &mut self,
        queue: u16,
        work: impl FnOnce(&mut Queue, &GuestMemory) -> Result<bool, Broken>,
    ) -> Result<(), Broken> {
        if !self.runs() {
            return Ok(());
        }
        let vector = self.transport.vector(queue);
        let Some(ring) = self.transport.queue(queue) else { return Ok(()) };
        let worked = work(ring, &self.memory);
        let (status, vector) = match worked {
            Ok(false) => (0, None),
            Ok(true) => (1, vector),
            Err(_) => (2, self.transport.needs_reset()),
        };
        self.status |= status;
        if let Some(vector) = vector {
            self.irqs.raise(pci::MSIX, vector);
        }
        worked.map(drop)
    }

    /// The hypervisor is gone: as after power on, without guest memory.
    pub fn disconnect(&mut self) {
        self.power_on();
        self.config.reset();
        self.irqs.disconnect();
        self.memory.clear();
    }

    fn power_on(&mut self) {
        self.transport.reset();
        (self.status, self.notified) = (0, false);
        self.irqs.clear_pending();
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            _ if offset < u64::from(LENGTH) => self.transport.read(offset, data),
            STATUS => {
                // Reading it clears it.
                if let Some(byte) = data.first_mut() {
                    *byte = std::mem::take(&mut self.status);
                }
            }
            _ if offset >= u64::from(PENDING) => {
                self.irqs.read_pending_bits(offset - u64::from(PENDING), data);
            }
            // The table is the hypervisor's.
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        match offset {
            NOTIFY => self.notified = true,
            _ if offset < u64::from(LENGTH) && self.transport.write(offset, data) == Written::Reset => {
                self.power_on();
            }
            _ => {}
        }
    }

    /// The part of BAR 0 that the driver wants to reach through configuration space, if `offset` is there.
    fn through_window(&self, offset: u64, length: usize) -> Option<u64> {
        let number = |at: u64| {
            let mut bytes = [0; 4];
            self.config.read(self.window + at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let wanted = u64::from(number(WINDOW_LENGTH));
        let fits = offset == self.window + WINDOW_DATA
            && wanted == length as u64
            && matches!(wanted, 1 | 2 | 4)
            && number(WINDOW_BAR) & 0xff == 0;
        let at = u64::from(number(WINDOW_OFFSET));
        Some(at).filter(|at| fits && at.is_multiple_of(wanted) && at + wanted <= BAR_SIZE)
    }
}

/// The capabilities that say where everything is; gives the place of the last, for access through configuration space.
fn add_capabilities(config: &mut ConfigSpace) -> u16 {
    let body = |kind: u8, offset: u64, length: u32, more: &[u8]| {
        let mut body = vec![u8::try_from(16 + more.len()).unwrap_or(16), kind, 0, 0, 0, 0];
        body.extend(u32::try_from(offset).unwrap_or(0).to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(more);
        body
    };
    let mut add = |body: &[u8], writable: &[u8]| config.add_capability(VENDOR_SPECIFIC, body, writable);
    add(&body(1, 0, LENGTH, &[]), &[]);
    // Notifications: all queues at one address.
    add(&body(2, NOTIFY, 4, &[0; 4]), &[]);
    add(&body(3, STATUS, 1, &[]), &[]);
    let mut writable = [0xff; 18];
    // The length, the kind, and what is reserved stay as they are; the BAR, the offset, the length and the data do not.
    writable.iter_mut().take(6).enumerate().filter(|(at, _)| *at != 2).for_each(|(_, byte)| *byte = 0);
    add(&body(5, 0, 0, &[0; 4]), &writable).unwrap_or_default()
}

impl Device for Function {
    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        self.irqs.info(index)
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if region != pci::CONFIG {
            self.read_bar(offset, data);
        } else if let Some(at) = self.through_window(offset, data.len()) {
            self.read_bar(at, data);
        } else {
            self.config.read(offset, data);
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let ran = self.runs();
        if region != pci::CONFIG {
            self.write_bar(offset, data);
        } else if self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
            self.reset()?;
        } else if let Some(at) = self.through_window(offset, data.len()) {
            self.write_bar(at, data);
        }
        // Linux's driver for a Nitro Security Module has buffers in the queue, and has said so, before it is ready.
        self.notified |= !ran && self.runs();
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        Ok(self.memory.map(map, file)?)
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), Errno> {
        Ok(self.memory.unmap(iova, len)?)
    }

    fn dma_unmap_all(&mut self) -> Result<(), Errno> {
        self.memory.clear();
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.power_on();
        self.config.reset();
        Ok(())
    }
}
