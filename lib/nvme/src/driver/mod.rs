//! A small host-side driver, for tests, benchmarks and the volume importer. It polls; it never sleeps by itself.
//!
//! The controller may be hostile here too: what it says is checked, and waiting has a limit.

mod admin;
mod queue;
mod transfer;

pub use admin::admin_entry;
pub use queue::{Command, Done, QueuePair};

use crate::memory::{Memory, MemoryFault};
use crate::spec::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CC_ENTRY_SIZES, CSTS, CSTS_FATAL, CSTS_READY, CSTS_SHUTDOWN_COMPLETE,
    CSTS_SHUTDOWN_MASK,
};
use crate::spec::{COMPLETION_ENTRY, PAGE, SUBMISSION_ENTRY, Status};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

/// BAR0 of a controller.
pub trait Bar {
    /// Reads registers.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes registers; the write may be posted.
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()>;
    /// Called over and over while the driver waits for the controller.
    fn wait(&mut self) {
        std::thread::yield_now();
    }
}

/// Why the driver gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// BAR access failed.
    #[error("the controller's registers cannot be reached: {0}")]
    Bar(#[from] io::Error),
    /// Shared memory is not what the driver was told.
    #[error("the driver's own memory failed: {0}")]
    Memory(#[from] MemoryFault),
    /// A command failed.
    #[error("the controller refused or failed a command: {0}")]
    Status(Status),
    /// The controller took too long.
    #[error("the controller did not {0} in time")]
    Timeout(&'static str),
    /// The area for queues and buffers is too small.
    #[error("the driver needs more memory than the {0} bytes that it was given")]
    OutOfMemory(u64),
    /// CSTS.CFS, or the function is gone.
    #[error("the controller reports a fatal status: reset it")]
    Fatal,
    /// The controller says things that make no sense.
    #[error("the controller breaks the protocol: {0}")]
    Protocol(&'static str),
}

/// What the driver asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// I/O queue pairs wanted, at least 1; the controller may give less.
    pub queues: u16,
    /// Entries of each I/O queue, 2 to 1024.
    pub entries: u16,
    /// Use shadow doorbells.
    pub shadow_doorbells: bool,
    /// Ask for interrupts: vector n for I/O queue n. The driver itself polls all the same.
    pub interrupts: bool,
    /// The longest wait for one answer.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            entries: 64,
            shadow_doorbells: false,
            interrupts: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Entries of the admin queues.
const ADMIN_ENTRIES: u16 = 32;
/// Buffers for synchronous transfers, each of this many bytes.
const BUFFERS: u16 = 8;
const BUFFER_BYTES: usize = 128 * 1024;
const BUFFER: u64 = BUFFER_BYTES as u64;

/// Hands out pages of the driver's memory, zeroed.
struct Area {
    next: u64,
    end: u64,
    length: u64,
}

impl Area {
    fn take<M: Memory>(&mut self, memory: &M, bytes: u64) -> Result<u64, Error> {
        let address = self.next;
        let pages = bytes.div_ceil(PAGE);
        match address.checked_add(pages * PAGE) {
            Some(end) if end <= self.end => self.next = end,
            _ => return Err(Error::OutOfMemory(self.length)),
        }
        for page in 0..pages {
            memory.write(address + page * PAGE, &[0; 4096])?;
        }
        Ok(address)
    }

    fn queue_pair<M: Memory>(&mut self, memory: &M, id: u16, entries: u16) -> Result<QueuePair, Error> {
        let count = u64::from(entries);
        let sq = self.take(memory, count * SUBMISSION_ENTRY)?;
        let cq = self.take(memory, count * COMPLETION_ENTRY)?;
        let lists = self.take(memory, count * queue::LIST)?;
        Ok(QueuePair::new(id, entries, sq, cq, lists))
    }
}

/// A controller in use, through its BAR and memory that both sides share.
pub struct Driver<B, M> {
    bar: B,
    memory: M,
    area: Area,
    timeout: Duration,
    admin: QueuePair,
    queues: Vec<QueuePair>,
    /// Asynchronous events that arrived.
    events: Vec<Done>,
    /// Data of admin commands, and after it a page for their PRP list.
    scratch: u64,
    buffers: u64,
    blocks: u64,
    block_shift: u32,
}

impl<B: Bar, M: Memory> Driver<B, M> {
    /// Resets the controller, enables it, and makes the I/O queues. `area` is the part of `memory` that the driver may
    /// use; about 1.2 MiB and 90 KiB for each queue of 1024 entries (600 bytes an entry).
    pub fn start(bar: B, memory: M, area: Range<u64>, options: &Options) -> Result<Self, Error> {
        let start = area.start.next_multiple_of(PAGE);
        let length = area.end.saturating_sub(area.start);
        let mut area = Area { next: start, end: area.end, length };
        let admin = area.queue_pair(&memory, 0, ADMIN_ENTRIES)?;
        let scratch = area.take(&memory, SCRATCH + PAGE)?;
        let buffers = area.take(&memory, u64::from(BUFFERS) * BUFFER)?;
        let mut driver = Self {
            bar,
            memory,
            area,
            timeout: options.timeout,
            admin,
            queues: Vec::new(),
            events: Vec::new(),
            scratch,
            buffers,
            blocks: 0,
            block_shift: 9,
        };
        driver.enable()?;
        driver.learn_namespace()?;
        driver.make_queues(options)?;
        Ok(driver)
    }

    fn enable(&mut self) -> Result<(), Error> {
        if self.read64(CAP)? >> 37 & 1 == 0 {
            return Err(Error::Protocol("it has no NVM command set"));
        }
        self.write32(CC, 0)?;
        self.wait_status("leave its ready state", |status| status & CSTS_READY == 0)?;
        let last = u32::from(ADMIN_ENTRIES - 1);
        self.write32(AQA, last << 16 | last)?;
        self.write64(ASQ, self.admin.sq_address())?;
        self.write64(ACQ, self.admin.cq_address())?;
        self.write32(CC, CC_ENTRY_SIZES | CC_ENABLE)?;
        self.wait_status("become ready", |status| status & CSTS_READY != 0)
    }

    /// Disables the controller and gives everything back.
    pub fn stop(mut self) -> Result<(B, M), Error> {
        self.write32(CC, 0)?;
        self.wait_status("leave its ready state", |status| status & CSTS_READY == 0)?;
        Ok((self.bar, self.memory))
    }

    /// Shuts the controller down in an orderly way: what was written is durable then. The controller needs a reset
    /// before it is used again.
    pub fn shutdown(&mut self) -> Result<(), Error> {
        self.write32(CC, CC_ENTRY_SIZES | CC_ENABLE | 1 << 14)?;
        self.wait_status("shut down", |status| status & CSTS_SHUTDOWN_MASK == CSTS_SHUTDOWN_COMPLETE)
    }

    /// Gives BAR and memory back as they are, the controller running.
    pub fn into_parts(self) -> (B, M) {
        (self.bar, self.memory)
    }

    /// The controller's BAR.
    pub fn bar(&mut self) -> &mut B {
        &mut self.bar
    }

    /// The shared memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Size of the namespace in logical blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Size of a logical block in bytes.
    pub fn block_size(&self) -> u64 {
        1 << self.block_shift
    }

    /// How many I/O queue pairs there are.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Takes zeroed pages for buffers from the driver's area. They are never given back.
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, Error> {
        self.area.take(&self.memory, bytes)
    }

    /// Puts a command into I/O queue `queue` (from 0), without ringing. `None`: the queue is full.
    pub fn submit(&mut self, queue: usize, command: &Command) -> Result<Option<u16>, Error> {
        let shift = self.block_shift;
        let queue = self.queues.get_mut(queue).ok_or(NO_QUEUE)?;
        Ok(queue.submit(&self.memory, command, shift)?)
    }

    /// Tells the controller of the commands submitted since the last ring.
    pub fn ring(&mut self, queue: usize) -> Result<(), Error> {
        Ok(self.queues.get_mut(queue).ok_or(NO_QUEUE)?.ring(&self.memory, &mut self.bar)?)
    }

    /// The next completion of I/O queue `queue`, if there is one.
    pub fn reap(&mut self, queue: usize) -> Result<Option<Done>, Error> {
        self.queues.get_mut(queue).ok_or(NO_QUEUE)?.reap(&self.memory)
    }

    /// Frees the completion entries reaped since the last call. Once for each batch is enough, but needed.
    pub fn acknowledge(&mut self, queue: usize) -> Result<(), Error> {
        Ok(self.queues.get_mut(queue).ok_or(NO_QUEUE)?.acknowledge(&self.memory, &mut self.bar)?)
    }

    /// I/O queue `queue` itself, with the memory and BAR that its methods want.
    pub fn queue(&mut self, queue: usize) -> Option<(&mut QueuePair, &M, &mut B)> {
        Some((self.queues.get_mut(queue)?, &self.memory, &mut self.bar))
    }

    fn wait_status(&mut self, what: &'static str, reached: impl Fn(u32) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let status = self.read32(CSTS)?;
            if status == u32::MAX {
                return Err(Error::Fatal);
            }
            if reached(status) {
                return Ok(());
            }
            if status & CSTS_FATAL != 0 && status & CSTS_READY == 0 {
                return Err(Error::Fatal);
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout(what));
            }
            self.bar.wait();
        }
    }

    /// A 32-bit register.
    pub fn read32(&mut self, offset: u64) -> Result<u32, Error> {
        let mut word = [0; 4];
        self.bar.read(offset, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn read64(&mut self, offset: u64) -> Result<u64, Error> {
        let mut word = [0; 8];
        self.bar.read(offset, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Writes a 32-bit register.
    pub fn write32(&mut self, offset: u64, value: u32) -> Result<(), Error> {
        Ok(self.bar.write(offset, &value.to_le_bytes())?)
    }

    fn write64(&mut self, offset: u64, value: u64) -> Result<(), Error> {
        Ok(self.bar.write(offset, &value.to_le_bytes())?)
    }
}

/// Data of admin commands: the longest log page that can be asked for.
const SCRATCH: u64 = 4 * PAGE;
const NO_QUEUE: Error = Error::Protocol("it gave fewer I/O queues than used");
