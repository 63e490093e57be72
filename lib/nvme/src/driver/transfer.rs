//! Reads and writes that wait, several commands at a time on the first I/O queue.

use super::{BUFFER, BUFFER_BYTES, BUFFERS, Bar, Command, Driver, Error};
use crate::Operation;
use crate::memory::Memory;
use std::time::Instant;

impl<B: Bar, M: Memory> Driver<B, M> {
    /// Reads blocks from `lba` on; `into` must be whole blocks.
    pub fn read(&mut self, lba: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut lba = lba;
        for round in into.chunks_mut(ROUND) {
            lba = self.round(Operation::Read, lba, round.len(), false)?;
            self.memory.read(self.buffers, round)?;
        }
        Ok(())
    }

    /// Writes blocks from `lba` on; `from` must be whole blocks.
    pub fn write(&mut self, lba: u64, from: &[u8]) -> Result<(), Error> {
        let mut lba = lba;
        for round in from.chunks(ROUND) {
            self.memory.write(self.buffers, round)?;
            lba = self.round(Operation::Write, lba, round.len(), false)?;
        }
        Ok(())
    }

    /// Makes every completed write durable.
    pub fn flush(&mut self) -> Result<(), Error> {
        let flush = Command { operation: Operation::Flush, lba: 0, blocks: 0, buffer: 0, durable: false };
        self.submit_waiting(&flush)?;
        self.drain()
    }

    /// Writes zeroes to blocks.
    pub fn write_zeroes(&mut self, lba: u64, blocks: u32) -> Result<(), Error> {
        let zeroes = Command { operation: Operation::WriteZeroes, lba, blocks, buffer: 0, durable: false };
        self.submit_waiting(&zeroes)?;
        self.drain()
    }

    /// Moves `length` bytes between the buffers and the medium. Gives the LBA after them.
    fn round(&mut self, operation: Operation, lba: u64, length: usize, durable: bool) -> Result<u64, Error> {
        let length = length as u64;
        if !length.is_multiple_of(self.block_size()) {
            return Err(Error::Protocol("a transfer must be whole blocks"));
        }
        let mut done = 0;
        while done < length {
            let bytes = BUFFER.min(length - done);
            let blocks = u32::try_from(bytes >> self.block_shift).unwrap_or(u32::MAX);
            let lba = lba + (done >> self.block_shift);
            self.submit_waiting(&Command { operation, lba, blocks, buffer: self.buffers + done, durable })?;
            done += bytes;
        }
        self.drain()?;
        Ok(lba + (length >> self.block_shift))
    }

    /// Submits; if the queue is full, what is in it is finished first.
    fn submit_waiting(&mut self, command: &Command) -> Result<(), Error> {
        if self.submit(0, command)?.is_none() {
            self.drain()?;
            self.submit(0, command)?.ok_or(Error::Protocol("an empty queue takes no command"))?;
        }
        Ok(())
    }

    /// Waits until the first I/O queue is empty. The first failure, if any, after all have ended.
    fn drain(&mut self) -> Result<(), Error> {
        self.ring(0)?;
        let deadline = Instant::now() + self.timeout;
        let mut outcome = Ok(());
        while self.queues.first().is_some_and(|queue| queue.outstanding() > 0) {
            match self.reap(0)? {
                Some(done) if !done.status.is_success() && outcome.is_ok() => {
                    outcome = Err(Error::Status(done.status));
                }
                Some(_) => {}
                None if Instant::now() > deadline => return Err(Error::Timeout("complete an I/O command")),
                None => {
                    self.acknowledge(0)?;
                    self.bar.wait();
                }
            }
        }
        self.acknowledge(0)?;
        outcome
    }
}

/// Bytes moved in one round.
const ROUND: usize = BUFFERS as usize * BUFFER_BYTES;
