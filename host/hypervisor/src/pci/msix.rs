//! MSI-X of one function: the table that the guest writes, and the eventfds by which the card raises interrupts
//! (PCI Local Bus 3.0 §6.8.2).
//!
//! An unmasked vector is a route from its eventfd into the guest that this process takes no part in. While a vector
//! is masked the signals stay in the eventfd, which thereby is its pending bit.

use super::config::{MsixCapability, Place};
use crate::irq::{Msi, Platform, Route};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, write},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Bytes of one entry of the table.
pub const ENTRY: u64 = 16;
/// Enable and function mask, in the high byte of message control.
const ENABLE: u8 = 0x80;
const FUNCTION_MASK: u8 = 0x40;
const MASKED: u32 = 1;
/// What a message's address must have above bit 19 to reach a local APIC (Intel SDM 3A §11.11.1).
const LOCAL_APIC: u64 = 0xFEE;

struct Vector {
    address: u64,
    data: u32,
    control: u32,
    eventfd: Arc<OwnedFd>,
    route: Option<Route>,
    bound: Option<Msi>,
}

/// What a write to message control asks of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Give it the eventfds.
    Enabled,
    /// Take them away.
    Disabled,
}

/// The state of MSI-X of one function.
pub struct Msix {
    capability: MsixCapability,
    control: u8,
    vectors: Vec<Vector>,
    /// The platform has refused a vector, which was said once: the guest could repeat it for ever.
    refused: bool,
}

/// One vector as it is kept while a machine moves to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VectorState {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// Vector control; bit 0 masks.
    pub control: u32,
    /// A signal has come that the guest has not had.
    pub pending: bool,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MsixState {
    control: u8,
    vectors: Vec<VectorState>,
}

impl Msix {
    /// As after a reset: off, and every vector masked.
    pub fn new(capability: MsixCapability) -> Result<Self, Errno> {
        let vector = |_| {
            Ok(Vector { address: 0, data: 0, control: MASKED, eventfd: fresh()?, route: None, bound: None })
        };
        let vectors = (0..capability.vectors).map(vector).collect::<Result<_, Errno>>()?;
        Ok(Self { capability, control: 0, vectors, refused: false })
    }

    /// What is kept for another process. The card must hold the interrupts back. Every vector is masked, after which
    /// no signal is on its way any more: it is with the guest's processor, or still in its eventfd.
    pub fn freeze(&mut self, platform: &dyn Platform) -> MsixState {
        let control = std::mem::take(&mut self.control);
        self.settle(platform);
        self.control = control;
        let vectors = self.vectors.iter().zip(self.signalled()).map(|(vector, pending)| VectorState {
            address: vector.address,
            data: vector.data,
            control: vector.control,
            pending,
        });
        MsixState { control, vectors: vectors.collect() }
    }

    /// Goes on here after [`Msix::freeze`].
    pub fn thaw(&mut self, platform: &dyn Platform) {
        self.settle(platform);
    }

    /// Goes on with the state of another process; `None` if it is another function's.
    pub fn resume(&mut self, state: &MsixState, platform: &dyn Platform) -> Option<()> {
        (state.vectors.len() == self.vectors.len()).then_some(())?;
        self.control = state.control & (ENABLE | FUNCTION_MASK);
        for (vector, state) in self.vectors.iter_mut().zip(&state.vectors) {
            (vector.address, vector.data, vector.control) =
                (state.address & !3, state.data, state.control & MASKED);
        }
        let pending = |(_, state): &(&Vector, &VectorState)| self.enabled() && state.pending;
        for (vector, _) in self.vectors.iter().zip(&state.vectors).filter(pending) {
            // The only error is a full counter, and then the signal is there.
            let _ = write(&vector.eventfd, &1u64.to_ne_bytes());
        }
        self.settle(platform);
        Some(())
    }

    /// The capability that it is the state of.
    pub const fn capability(&self) -> &MsixCapability {
        &self.capability
    }

    /// The eventfds, for the card.
    pub fn eventfds(&self) -> Vec<BorrowedFd<'_>> {
        self.vectors.iter().map(|vector| vector.eventfd.as_fd()).collect()
    }

    /// Message control as the guest reads it.
    pub fn control(&self) -> [u8; 2] {
        let last = u16::try_from(self.vectors.len().saturating_sub(1)).unwrap_or_default();
        let [low, high] = last.to_le_bytes();
        [low, high | self.control]
    }

    /// The guest writes the high byte of message control.
    pub fn set_control(&mut self, value: u8, platform: &dyn Platform) -> Change {
        let before = self.enabled();
        self.control = value & (ENABLE | FUNCTION_MASK);
        match (before, self.enabled()) {
            (true, false) => {
                self.unbind(platform);
                Change::Disabled
            }
            (before, after) => {
                self.settle(platform);
                if before == after { Change::None } else { Change::Enabled }
            }
        }
    }

    /// The guest has MSI-X on.
    pub const fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// The part of the structure at an offset of a BAR, with the offset in it.
    pub fn part(&self, bar: usize, offset: u64, len: usize) -> Option<(Part, u64)> {
        let count = self.vectors.len() as u64;
        let hit = |place: Place, size: u64| {
            let end = offset.saturating_add(len as u64);
            (place.bar == bar && offset < place.offset.saturating_add(size) && end > place.offset)
                .then(|| offset.checked_sub(place.offset).filter(|at| at.saturating_add(len as u64) <= size))
        };
        let table = hit(self.capability.table, count * ENTRY).map(|at| (Part::Table, at));
        let part = table
            .or_else(|| hit(self.capability.pending, pending_bytes(count)).map(|at| (Part::Pending, at)));
        part.map(|(part, at)| at.map_or((Part::Torn, 0), |at| (part, at)))
    }

    /// The guest reads the table; only aligned words of 4 or 8 bytes are answered.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((vector, at)) = self.entry(offset, data.len()) else { return };
        let mut entry = [0; 16];
        for (byte, value) in entry.iter_mut().zip(
            vector
                .address
                .to_le_bytes()
                .into_iter()
                .chain(vector.data.to_le_bytes())
                .chain(vector.control.to_le_bytes()),
        ) {
            *byte = value;
        }
        for (byte, value) in data.iter_mut().zip(entry.iter().skip(at)) {
            *byte = *value;
        }
    }

    /// The guest writes the table.
    pub fn write_table(&mut self, offset: u64, data: &[u8], platform: &dyn Platform) {
        let Some((_, at)) = self.entry(offset, data.len()) else { return };
        let index = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
        let Some(vector) = self.vectors.get_mut(index) else { return };
        for (number, word) in data.chunks_exact(4).enumerate() {
            let value = word.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
            match at + 4 * number {
                0 => vector.address = vector.address >> 32 << 32 | u64::from(value & !3),
                4 => vector.address = u64::from(value) << 32 | vector.address & 0xFFFF_FFFF,
                8 => vector.data = value,
                _ => vector.control = value & MASKED,
            }
        }
        self.settle(platform);
    }

    /// The guest reads pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let first = usize::try_from(offset.saturating_mul(8)).unwrap_or(usize::MAX);
        for (index, _) in self.pending().into_iter().enumerate().filter(|(_, pending)| *pending) {
            if let Some(byte) = index.checked_sub(first).and_then(|at| data.get_mut(at / 8)) {
                *byte |= 1 << (index % 8);
            }
        }
    }

    /// Vectors with a signal that the guest does not get now.
    fn pending(&self) -> Vec<bool> {
        let waits =
            |(signalled, vector): (bool, &Vector)| self.enabled() && signalled && vector.bound.is_none();
        self.signalled().into_iter().zip(&self.vectors).map(waits).collect()
    }

    /// Vectors whose eventfd has a signal; one that is bound may have had it.
    fn signalled(&self) -> Vec<bool> {
        let fds =
            self.vectors.iter().map(|vector| PollFd::from_borrowed_fd(vector.eventfd.as_fd(), PollFlags::IN));
        let mut fds: Vec<_> = fds.collect();
        let known = poll(&mut fds, Some(&Timespec::default())).is_ok();
        fds.iter().map(|fd| known && fd.revents().contains(PollFlags::IN)).collect()
    }

    /// Binds what is unmasked and unbinds what is not.
    fn settle(&mut self, platform: &dyn Platform) {
        let open = self.control & (ENABLE | FUNCTION_MASK) == ENABLE;
        for vector in &mut self.vectors {
            let message = Msi { address: vector.address, data: vector.data };
            let wanted = (open && vector.control & MASKED == 0 && message.address >> 20 == LOCAL_APIC)
                .then_some(message);
            if wanted == vector.bound {
                continue;
            }
            let done = match &vector.route {
                Some(route) => platform.update_msi(route, wanted),
                None => platform
                    .bind_msi(Arc::clone(&vector.eventfd), wanted)
                    .map(|route| vector.route = Some(route)),
            };
            match done {
                Ok(()) => vector.bound = wanted,
                Err(_) if self.refused => {}
                Err(error) => {
                    tracing::warn!(%error, "a function's interrupt does not reach the guest");
                    self.refused = true;
                }
            }
        }
    }

    /// Lets go of all routes and forgets what is pending.
    pub fn unbind(&mut self, platform: &dyn Platform) {
        for vector in &mut self.vectors {
            vector.bound = None;
            if let Some(route) = vector.route.take() {
                platform.unbind_msi(route);
            }
        }
        let signalled = self.signalled();
        for (vector, _) in self.vectors.iter_mut().zip(signalled).filter(|(_, signalled)| *signalled) {
            // The card gives back what it has and gets all of them anew. If there is no other eventfd now, the guest
            // sees an interrupt for nothing.
            if let Ok(fresh) = fresh() {
                vector.eventfd = fresh;
            }
        }
    }

    /// As after power on.
    pub fn reset(&mut self, platform: &dyn Platform) {
        self.control = 0;
        self.unbind(platform);
        for vector in &mut self.vectors {
            (vector.address, vector.data, vector.control) = (0, 0, MASKED);
        }
    }

    /// The table entry at an offset, and the offset in it.
    fn entry(&self, offset: u64, len: usize) -> Option<(&Vector, usize)> {
        let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(len as u64);
        let vector = self.vectors.get(usize::try_from(offset / ENTRY).ok()?)?;
        aligned.then_some((vector, usize::try_from(offset % ENTRY).ok()?))
    }
}

fn fresh() -> Result<Arc<OwnedFd>, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new)
}

/// What lies at an address of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The table.
    Table,
    /// The pending bits.
    Pending,
    /// The access lies only partly in one of them.
    Torn,
}

/// Bytes of the pending bits, whole 64-bit words.
pub const fn pending_bytes(vectors: u64) -> u64 {
    vectors.div_ceil(64) * 8
}
