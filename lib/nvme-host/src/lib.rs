//! The host's end of an NVMe function over vfio-user: the `nvme` crate's driver with memory that it shares with a
//! card. Tests, benchmarks and the volume importer use it where a guest would stand. It makes no file and opens
//! no path but the function's socket; what the card says is checked by the driver.
#![forbid(unsafe_code)]

use guest_memory::{Access, DmaMap, GuestMemory, MapError, Sealing, memfd};
use nvme::driver::{Bar, Driver, Error as DriverError, Options};
use nvme::{Memory, MemoryFault};
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};
use vfio_user::{
    Client, ClientError,
    pci::{BAR0, CONFIG},
};

/// The command register in configuration space, and its bits for memory space and bus master (PCI Local Bus 3.0
/// §6.2.2): without the second a function reaches no memory.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 0b110;

/// Why a function could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No memory to share.
    #[error("no memory to share with the card: {0}")]
    Memory(#[from] Errno),
    /// The memory cannot be mapped here.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The card does not speak vfio-user as it should.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The card is no NVMe controller that works.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// BAR0 of the function.
pub struct Function(pub Client);

impl Function {
    /// Shows the card all of `memory` and lets it reach it.
    pub fn share(client: Client, memory: &Shared) -> Result<Self, ClientError> {
        let mut function = Self(client);
        function.0.dma_map(memory.map(), Some(memory.as_fd()))?;
        function.enable()?;
        Ok(function)
    }

    /// Lets the function answer and reach memory.
    pub fn enable(&mut self) -> Result<(), ClientError> {
        self.0.write(CONFIG, COMMAND, &MEMORY_AND_MASTER.to_le_bytes())
    }
}

impl Bar for Function {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read(BAR0, offset, into).map_err(io::Error::other)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.post(BAR0, offset, from).map_err(io::Error::other)
    }
}

/// Memory that this side and the card both reach, at bus address 0.
pub struct Shared {
    memory: GuestMemory,
    file: OwnedFd,
    map: DmaMap,
}

impl Shared {
    /// `bytes` of zeros, not shared with anybody yet.
    pub fn new(bytes: u64) -> Result<Self, ConnectError> {
        let file = memfd(bytes)?;
        let map = DmaMap { iova: 0, len: bytes, offset: 0, readable: true, writable: true };
        let mut memory = GuestMemory::new(Sealing::Required);
        memory.map(
            map,
            Some(file.try_clone().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?),
        )?;
        Ok(Self { memory, file, map })
    }

    /// The map that shows all of it to a card.
    pub const fn map(&self) -> DmaMap {
        self.map
    }

    /// Where an address is in this process, if it is in this memory.
    pub fn pointer(&self, address: u64) -> Option<NonNull<u8>> {
        self.memory.segment(address, 1, Access::Write).map(|segment| segment.ptr)
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Memory for Shared {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let length = into.len();
        self.memory.read(address, into).map_err(|_| MemoryFault { address, length })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.memory.write(address, from).map_err(|_| MemoryFault { address, length: from.len() })
    }

    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        self.memory.load_u32(address).map_err(|_| MemoryFault { address, length: 4 })
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        self.memory.store_u32(address, value).map_err(|_| MemoryFault { address, length: 4 })
    }
}

/// A driver on a function.
pub type FunctionDriver = Driver<Function, Shared>;

/// Shares `bytes` of new memory with the card and starts a driver that uses all of it.
pub fn start(client: Client, bytes: u64, options: &Options) -> Result<FunctionDriver, ConnectError> {
    let memory = Shared::new(bytes)?;
    let function = Function::share(client, &memory)?;
    Ok(Driver::start(function, memory, 0..bytes, options)?)
}
