//! A split virtqueue (virtio 1.3, 2.7).

use guest_memory::{AccessError, GuestMemory};

/// Most entries of a queue.
pub const MAX_QUEUE: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const DESCRIPTOR: usize = 16;

/// Why a queue cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A ring or a buffer is not in guest memory.
    #[error(transparent)]
    Memory(#[from] AccessError),
    /// More buffers are available than the queue has entries.
    #[error("the available ring is ahead by more entries than the queue has")]
    Ahead,
    /// A descriptor does not exist, or a chain of them has no end.
    #[error("a chain of descriptors leads nowhere")]
    Chain,
    /// A descriptor of a kind that was not offered, or in the wrong place.
    #[error("a descriptor is of a kind that does not belong there")]
    Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    address: u64,
    length: u32,
    writable: bool,
}

/// A buffer: a chain of descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    parts: Vec<Part>,
}

impl Chain {
    /// Bytes in which the device may write.
    pub fn room(&self) -> u64 {
        self.parts.iter().filter(|part| part.writable).map(|part| u64::from(part.length)).sum()
    }

    /// Whether the device may only read (`false`) or only write (`true`) all of it.
    pub fn is_all(&self, writable: bool) -> bool {
        self.parts.iter().all(|part| part.writable == writable)
    }

    /// The first `most` bytes that the device may read.
    pub fn read(&self, memory: &GuestMemory, most: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        for part in self.parts.iter().filter(|part| !part.writable) {
            let begun = bytes.len();
            let length = usize::try_from(part.length).unwrap_or(usize::MAX).min(most - begun);
            bytes.resize(begun + length, 0);
            memory.read(part.address, bytes.get_mut(begun..).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    /// Writes `bytes`, as far as there is room.
    pub fn write(&self, memory: &GuestMemory, mut bytes: &[u8]) -> Result<(), Broken> {
        for part in self.parts.iter().filter(|part| part.writable) {
            let length = usize::try_from(part.length).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(length);
            memory.write(part.address, now)?;
            bytes = later;
        }
        Ok(())
    }
}

/// One queue.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    pub(crate) largest: u16,
    pub(crate) size: u16,
    pub(crate) enabled: bool,
    pub(crate) vector: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    /// Entries of the available ring that were taken, and of the used ring that were given.
    taken: u16,
    given: u16,
}

impl Queue {
    pub(crate) fn new(largest: u16) -> Self {
        Self {
            largest,
            size: largest,
            enabled: false,
            vector: crate::transport::NO_VECTOR,
            descriptors: 0,
            driver: 0,
            device: 0,
            taken: 0,
            given: 0,
        }
    }

    /// Buffers that wait.
    pub fn waiting(&self, memory: &GuestMemory) -> Result<u16, Broken> {
        let index = memory.load_u16(self.driver.wrapping_add(2))?;
        let waiting = index.wrapping_sub(self.taken);
        if waiting > self.size { Err(Broken::Ahead) } else { Ok(waiting) }
    }

    /// The `nth` of the buffers that wait, counted from 0. It goes on waiting.
    pub fn peek(&self, memory: &GuestMemory, nth: u16) -> Result<Chain, Broken> {
        let slot = u64::from(self.taken.wrapping_add(nth) & (self.size - 1));
        let head = memory.load_u16(self.driver.wrapping_add(4 + 2 * slot))?;
        let mut chain = Chain { head, parts: Vec::new() };
        let mut next = Some(head);
        while let Some(index) = next {
            if index >= self.size || chain.parts.len() >= usize::from(self.size) {
                return Err(Broken::Chain);
            }
            let mut bytes = [0; DESCRIPTOR];
            memory.read(self.descriptors.wrapping_add(DESCRIPTOR as u64 * u64::from(index)), &mut bytes)?;
            let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
            let flags = u16::from_le_bytes([f0, f1]);
            if flags & INDIRECT != 0 {
                return Err(Broken::Kind);
            }
            let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let length = u32::from_le_bytes([l0, l1, l2, l3]);
            chain.parts.push(Part { address, length, writable: flags & WRITE != 0 });
            next = (flags & NEXT != 0).then(|| u16::from_le_bytes([n0, n1]));
        }
        Ok(chain)
    }

    /// Gives back the buffers that wait longest, each with the number of bytes that were written into it: they must be
    /// those that [`Queue::peek`] gave, from 0 on. The driver sees all of them at once. Says whether it wants to be
    /// interrupted.
    pub fn complete(&mut self, memory: &GuestMemory, done: &[(&Chain, u32)]) -> Result<bool, Broken> {
        for (chain, written) in done {
            let slot = u64::from(self.given & (self.size - 1));
            let entry = [u32::from(chain.head).to_le_bytes(), written.to_le_bytes()].concat();
            memory.write(self.device.wrapping_add(4 + 8 * slot), &entry)?;
            self.given = self.given.wrapping_add(1);
            self.taken = self.taken.wrapping_add(1);
        }
        memory.store_u16(self.device.wrapping_add(2), self.given)?;
        Ok(memory.load_u16(self.driver)? & NO_INTERRUPT == 0)
    }
}
