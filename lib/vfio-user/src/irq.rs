//! Interrupts of a PCI function: an eventfd for each, and what is pending while there is none.

use crate::{
    device::{Irq, IrqAction, IrqData, IrqSet},
    pci::IRQS,
};
use rustix::{
    fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat},
    io::{Errno, write},
};
use std::os::fd::OwnedFd;

#[derive(Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    masked: bool,
    pending: bool,
}

impl Vector {
    fn raise(&mut self) {
        self.pending = match &self.eventfd {
            // The only error that matters is a full counter, and then the signal is there already.
            Some(eventfd) if !self.masked => {
                let _ = write(eventfd, &1u64.to_ne_bytes());
                false
            }
            _ => true,
        }
    }

    fn release(&mut self) {
        if self.pending && self.eventfd.is_some() && !self.masked {
            self.raise();
        }
    }
}

/// All interrupts of one PCI function.
///
/// An interrupt raised while it has no eventfd or is masked stays pending and is sent as soon as it can be:
/// hypervisors take all MSI-X eventfds away and set them anew whenever a driver enables one more vector.
pub struct Irqs {
    indexes: [Vec<Vector>; IRQS as usize],
}

impl Irqs {
    /// `counts` interrupts at each index of [`pci`](crate::pci), none of them enabled.
    pub fn new(counts: [u16; IRQS as usize]) -> Self {
        Self { indexes: counts.map(|count| (0..count).map(|_| Vector::default()).collect()) }
    }

    /// What [`Device::irq`](crate::Device::irq) answers.
    pub fn info(&self, index: u32) -> Option<Irq> {
        let vectors = self.indexes.get(index as usize)?;
        let count = u32::try_from(vectors.len()).ok()?;
        Some(Irq { count, eventfd: count > 0, maskable: count > 0, no_resize: false })
    }

    /// What [`Device::set_irqs`](crate::Device::set_irqs) does.
    pub fn set(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        let vectors = self.indexes.get_mut(set.index as usize).ok_or(Errno::INVAL)?;
        if set.count == 0 {
            vectors.iter_mut().for_each(|vector| vector.eventfd = None);
            return Ok(());
        }
        let end = set.start.checked_add(set.count).ok_or(Errno::INVAL)?;
        let range = vectors.get_mut(set.start as usize..end as usize).ok_or(Errno::INVAL)?;
        let act = |vector: &mut Vector| match set.action {
            IrqAction::Mask => vector.masked = true,
            IrqAction::Unmask => {
                vector.masked = false;
                vector.release();
            }
            IrqAction::Trigger => vector.raise(),
        };
        match set.data {
            IrqData::None => range.iter_mut().for_each(act),
            IrqData::Bool(chosen) => {
                range
                    .iter_mut()
                    .zip(chosen)
                    .filter(|(_, chosen)| **chosen != 0)
                    .for_each(|(vector, _)| act(vector));
            }
            IrqData::Eventfds(_) if set.action != IrqAction::Trigger => return Err(Errno::INVAL),
            IrqData::Eventfds(fds) if fds.is_empty() => {
                range.iter_mut().for_each(|vector| vector.eventfd = None);
            }
            IrqData::Eventfds(fds) => {
                fds.iter().try_for_each(accept)?;
                for (vector, eventfd) in range.iter_mut().zip(fds) {
                    vector.eventfd = Some(eventfd);
                    vector.release();
                }
            }
        }
        Ok(())
    }

    /// Raises an interrupt. One that does not exist is ignored.
    pub fn raise(&mut self, index: u32, vector: u16) {
        let vectors = self.indexes.get_mut(index as usize);
        if let Some(vector) = vectors.and_then(|vectors| vectors.get_mut(usize::from(vector))) {
            vector.raise();
        }
    }

    /// Forgets what is pending: the driver that it was for has disabled the device.
    pub fn clear_pending(&mut self) {
        self.indexes.iter_mut().flatten().for_each(|vector| vector.pending = false);
    }

    /// Forgets all eventfds, masks and what is pending: the client is gone.
    pub fn disconnect(&mut self) {
        self.indexes.iter_mut().flatten().for_each(|vector| *vector = Vector::default());
    }

    /// Reads the MSI-X pending bit array from byte `offset` (PCI 3.0, 6.8.2.10).
    pub fn read_pending_bits(&self, offset: u64, data: &mut [u8]) {
        let [_, _, msix, ..] = &self.indexes;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, byte) in data.iter_mut().enumerate() {
            let first = offset.saturating_add(at).saturating_mul(8);
            let bits = (0..8)
                .filter(|bit| msix.get(first.saturating_add(*bit)).is_some_and(|vector| vector.pending));
            *byte = bits.fold(0, |byte, bit| byte | 1 << bit);
        }
    }
}

/// Takes a descriptor only if writing to it can neither block nor change a file: an anonymous inode (they have no
/// file type), made non-blocking.
fn accept(eventfd: &OwnedFd) -> Result<(), Errno> {
    if FileType::from_raw_mode(fstat(eventfd)?.st_mode) != FileType::Unknown {
        return Err(Errno::INVAL);
    }
    fcntl_setfl(eventfd, fcntl_getfl(eventfd)? | OFlags::NONBLOCK)
}
