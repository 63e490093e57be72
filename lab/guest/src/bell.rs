//! A function that does nothing but ring: what a doorbell costs that does not leave the kernel (ioeventfd), and an
//! interrupt that comes from outside (irqfd).

use crate::Error;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, read},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
};
use vfio_user::{
    Device, IoEvent, Irq, IrqSet, Irqs, Region, Session, Wait,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};

/// The identity that the guest looks for.
const DEVICE: u16 = 0xbe11;
const BAR_SIZE: u64 = 0x4000;

struct Bell {
    config: ConfigSpace,
    regions: Vec<Region>,
    events: Vec<IoEvent>,
    irqs: Irqs,
}

/// Starts one; gives the hypervisor's end. It ends when that is closed.
pub fn start() -> Result<OwnedFd, Error> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let [silent, answered] =
        [eventfd(0, EventfdFlags::NONBLOCK)?, eventfd(0, EventfdFlags::NONBLOCK)?].map(Arc::new);
    let event = |offset, eventfd: &Arc<OwnedFd>| IoEvent {
        offset,
        size: 4,
        value: None,
        eventfd: Arc::clone(eventfd),
    };
    let mut regions = vec![Region::default(); pci::REGIONS as usize];
    for (index, size) in [(pci::BAR0, BAR_SIZE), (pci::CONFIG, pci::CONFIG_SIZE as u64)] {
        if let Some(region) = regions.get_mut(index as usize) {
            *region = Region { size, readable: true, writable: true, mapping: None };
        }
    }
    let identity =
        Identity { vendor: 0x1d0f, device: DEVICE, subsystem: 0, revision: 1, class: [0, 0, 0xff] };
    let bar = Bar { index: 0, size: BAR_SIZE, prefetchable: false };
    let msix = Msix { vectors: 1, bar: 0, table: 0x1000, pending: 0x2000 };
    let bell = Bell {
        config: ConfigSpace::new(&identity, &[bar], &msix),
        regions,
        events: vec![event(0, &silent), event(4, &answered)],
        irqs: Irqs::new([0, 0, 1, 1, 0]),
    };
    thread::spawn(move || serve(bell, ours, &answered));
    Ok(theirs)
}

/// Answers the hypervisor, and each ring of the second bell with an interrupt.
fn serve(mut bell: Bell, socket: OwnedFd, answered: &OwnedFd) {
    let mut session = Session::new(socket);
    while let Ok(wait) = session.step(&mut bell) {
        let flags = if wait == Wait::Output { PollFlags::OUT } else { PollFlags::IN };
        let mut waits = [PollFd::new(&session, flags), PollFd::new(answered, PollFlags::IN)];
        if poll(&mut waits, None).is_err_and(|error| error != Errno::INTR) {
            return;
        }
        if read(answered.as_fd(), &mut [0; 8]).is_ok() {
            bell.irqs.raise(pci::MSIX, 0);
        }
    }
}

impl Device for Bell {
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
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if region == pci::CONFIG && self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
            self.config.reset();
        }
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.config.reset();
        Ok(())
    }
}
