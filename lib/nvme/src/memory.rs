//! How the controller and the driver reach shared memory.

use std::cell::RefCell;

/// An access that memory did not take: not mapped, read-only, or misaligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no {length} bytes of memory may be reached at {address:#x}: map them first")]
pub struct MemoryFault {
    /// First address of the access.
    pub address: u64,
    /// Length of the access in bytes.
    pub length: usize,
}

/// Memory shared between a host and a controller, by DMA address.
///
/// Both sides change it at any time, so implementations copy and never lend references. `load_u32` and
/// `store_u32` are single accesses: they order the plain copies around them.
pub trait Memory {
    /// Copies out of memory; all of `into` or a fault.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault>;
    /// Copies into memory; a fault may leave a part written.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault>;
    /// One aligned 32-bit little-endian load with acquire order.
    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault>;
    /// One aligned 32-bit little-endian store with release order.
    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault>;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        (**self).read(address, into)
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        (**self).write(address, from)
    }
    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        (**self).load_u32(address)
    }
    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        (**self).store_u32(address, value)
    }
}

/// Plain memory from address 0, for a controller and a driver that share one thread.
pub struct Ram(RefCell<Vec<u8>>);

impl Ram {
    /// Zeroed memory of `length` bytes.
    pub fn new(length: usize) -> Self {
        Self(RefCell::new(vec![0; length]))
    }

    fn at<T>(
        &self,
        address: u64,
        length: usize,
        access: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, MemoryFault> {
        let fault = MemoryFault { address, length };
        let start = usize::try_from(address).map_err(|_| fault)?;
        let end = start.checked_add(length).ok_or(fault)?;
        self.0.borrow_mut().get_mut(start..end).map(access).ok_or(fault)
    }
}

impl Memory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.at(address, into.len(), |bytes| into.copy_from_slice(bytes))
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.at(address, from.len(), |bytes| bytes.copy_from_slice(from))
    }
    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        aligned(address)?;
        let mut word = [0; 4];
        self.read(address, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }
    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        aligned(address)?;
        self.write(address, &value.to_le_bytes())
    }
}

fn aligned(address: u64) -> Result<(), MemoryFault> {
    if address.is_multiple_of(4) { Ok(()) } else { Err(MemoryFault { address, length: 4 }) }
}
