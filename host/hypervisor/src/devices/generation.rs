//! The generation id: 16 random bytes on a page of their own that change when a machine is copied or set back, so
//! that the guest makes new secrets (Microsoft's "Virtual Machine Generation ID"; EC2 guests have it at 0xFED01000).

use crate::{
    irq::{Mapping, Platform, PlatformError},
    layout,
};
use guest_memory::{DmaMap, GuestMemory, Sealing, memfd};
use rustix::io::Errno;
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// Why there is no such page.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// No memory.
    #[error("a page for the generation id: {0}")]
    System(#[from] Errno),
    /// It cannot be mapped here.
    #[error("a page for the generation id: {0}")]
    Map(#[from] guest_memory::MapError),
    /// It cannot be shown to the guest.
    #[error("a page for the generation id: {0}")]
    Platform(#[from] PlatformError),
}

/// The page. The guest may write on it, and then reads what it wrote.
pub struct Generation {
    memory: Mutex<GuestMemory>,
    _shown: Mapping,
    _file: OwnedFd,
}

impl Generation {
    /// Shows a page with `id` to the guest.
    pub fn new(platform: &dyn Platform, id: [u8; 16]) -> Result<Self, GenerationError> {
        let range = layout::GENERATION;
        let len = range.end - range.start;
        let file = memfd(len)?;
        let mut memory = GuestMemory::new(Sealing::Required);
        let map = DmaMap { iova: 0, len, offset: 0, readable: true, writable: true };
        memory.map(map, Some(file.try_clone().map_err(|_| Errno::MFILE)?))?;
        let shown = platform.map_shared(range.start, len, file.as_fd(), 0)?;
        let generation = Self { memory: Mutex::new(memory), _shown: shown, _file: file };
        generation.set(id);
        Ok(generation)
    }

    /// Changes the id. The guest has to be told.
    pub fn set(&self, id: [u8; 16]) {
        // The page is there for as long as this is.
        let _ = self.memory.lock().unwrap_or_else(PoisonError::into_inner).write(0, &id);
    }
}
