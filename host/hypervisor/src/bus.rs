//! Port space and memory-mapped space: which device answers at which address.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// What answers reads and writes of a range. Lengths are 1 to 8 bytes and may be odd; offsets are from the start
/// of the device's range.
pub trait Device: Send {
    /// Fills `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device could not be put onto the bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Some address of it is taken, or the range is empty.
    #[error("the range {0:#x?} is empty or taken")]
    Range(Range<u64>),
}

type Shared = Arc<Mutex<dyn Device>>;

/// One address space.
#[derive(Default)]
pub struct Bus(RwLock<BTreeMap<u64, (u64, Shared)>>);

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer for `range`.
    pub fn add(&self, range: Range<u64>, device: Shared) -> Result<(), BusError> {
        let mut devices = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = devices.range(..range.end).next_back();
        if range.is_empty() || before.is_some_and(|(_, (end, _))| *end > range.start) {
            return Err(BusError::Range(range));
        }
        devices.insert(range.start, (range.end, device));
        Ok(())
    }

    /// Takes the device that starts at `start` away.
    pub fn remove(&self, start: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&start);
    }

    /// Reads; what nobody answers is all ones, and `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xFF);
        let Some((offset, device)) = self.find(address, data.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        true
    }

    /// Writes; `false` if nobody answers.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        true
    }

    /// The device is called without the bus being locked, so that it may change the bus.
    fn find(&self, address: u64, len: usize) -> Option<(u64, Shared)> {
        let devices = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (start, (end, device)) = devices.range(..=address).next_back()?;
        let after = address.checked_add(len as u64)?;
        (after <= *end).then(|| (address - start, Arc::clone(device)))
    }
}
