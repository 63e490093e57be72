//! Guest memory, as the NVMe controller reaches it.

use guest_memory::GuestMemory;
use nvme::{Memory, MemoryFault};

/// The DMA maps of one function.
pub(crate) struct Guest(pub(crate) GuestMemory);

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
