//! The generation id: 16 random bytes on a page of their own that change when a machine is copied or set back, so
//! that the guest makes new secrets (Microsoft's "Virtual Machine Generation ID"; EC2 guests have it at 0xFED01000).

use crate::layout::GENERATION;
use guest_memory::{Access, DmaMap, GuestMemory, MapError, Sealing, memfd};
use rustix::io::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why there is no such page.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// No memory.
    #[error("a page for the generation id: {0}")]
    System(#[from] Errno),
    /// It cannot be mapped here.
    #[error("a page for the generation id: {0}")]
    Map(#[from] MapError),
}

/// The page. The guest may write on it, and then reads what it wrote.
pub struct Generation(Mutex<GuestMemory>);

impl Generation {
    /// A page of zeros, for whoever shows it to the guest.
    pub fn new() -> Result<Self, GenerationError> {
        let len = GENERATION.end - GENERATION.start;
        let mut memory = GuestMemory::new(Sealing::Required);
        let map = DmaMap { iova: 0, len, offset: 0, readable: true, writable: true };
        memory.map(map, Some(memfd(len)?))?;
        Ok(Self(Mutex::new(memory)))
    }

    /// Where the page lies in this process, as long as `self`.
    pub(crate) fn host(&self) -> Option<u64> {
        Some(self.memory().segment(0, 1, Access::Write)?.ptr.addr().get() as u64)
    }

    /// Changes the id. The guest has to be told.
    pub fn set(&self, id: [u8; 16]) {
        // The page is there for as long as this is.
        let _ = self.memory().write(0, &id);
    }

    fn memory(&self) -> MutexGuard<'_, GuestMemory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
