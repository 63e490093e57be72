//! A queue pair as the host sees it.

use super::{Bar, Error};
use crate::memory::{Memory, MemoryFault};
use crate::spec::command::FUA;
use crate::spec::registers::{head_doorbell, tail_doorbell};
use crate::spec::{COMPLETION_ENTRY, Completion, IoOpcode, PAGE, SUBMISSION_ENTRY, Status, SubmissionEntry};
use crate::{MAX_TRANSFER, Operation};
use std::io;
use std::sync::atomic::{Ordering, fence};
use zerocopy::IntoBytes;

/// Room for one command's PRP list in bytes: 64 entries.
pub(super) const LIST: u64 = 512;

/// An I/O command on one contiguous buffer.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// What to do.
    pub operation: Operation,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks, 1 to 65536; 0 for flush.
    pub blocks: u32,
    /// DMA address of the buffer, a multiple of 4.
    pub buffer: u64,
    /// Writes: complete only when durable.
    pub durable: bool,
}

/// A completed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Which command.
    pub cid: u16,
    /// How it ended.
    pub status: Status,
    /// Command specific result.
    pub result: u32,
}

/// Where a queue's shadow doorbells and event indexes are.
#[derive(Clone, Copy)]
struct ShadowPlace {
    tail: u64,
    head: u64,
    tail_event: u64,
    head_event: u64,
}

/// A submission queue, its completion queue, and PRP lists for its commands.
pub struct QueuePair {
    id: u16,
    entries: u16,
    sq: u64,
    cq: u64,
    lists: u64,
    tail: u16,
    rung_tail: u16,
    head: u16,
    rung_head: u16,
    phase: bool,
    /// Identifiers not in use. One fewer than entries exist, so that the ring never looks empty when full.
    free: Vec<u16>,
    in_use: Vec<bool>,
    shadow: Option<ShadowPlace>,
}

impl QueuePair {
    pub(super) fn new(id: u16, entries: u16, sq: u64, cq: u64, lists: u64) -> Self {
        Self {
            id,
            entries,
            sq,
            cq,
            lists,
            tail: 0,
            rung_tail: 0,
            head: 0,
            rung_head: 0,
            phase: true,
            free: (0..entries.saturating_sub(1)).rev().collect(),
            in_use: vec![false; usize::from(entries)],
            shadow: None,
        }
    }

    pub(super) fn sq_address(&self) -> u64 {
        self.sq
    }

    pub(super) fn cq_address(&self) -> u64 {
        self.cq
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// From now on doorbells go through these pages.
    pub(super) fn use_shadow(&mut self, doorbells: u64, events: u64) {
        let tail = u64::from(self.id) * 8;
        self.shadow = Some(ShadowPlace {
            tail: doorbells + tail,
            head: doorbells + tail + 4,
            tail_event: events + tail,
            head_event: events + tail + 4,
        });
    }

    /// Commands that were submitted and not reaped.
    pub fn outstanding(&self) -> usize {
        usize::from(self.entries.saturating_sub(1)) - self.free.len()
    }

    /// Puts a command into the queue, without ringing. `None`: the queue is full.
    pub fn submit<M: Memory>(
        &mut self,
        memory: &M,
        command: &Command,
        block_shift: u32,
    ) -> Result<Option<u16>, MemoryFault> {
        let Some(&cid) = self.free.last() else { return Ok(None) };
        let mut entry = SubmissionEntry { nsid: 1.into(), ..SubmissionEntry::default() };
        let opcode = match command.operation {
            Operation::Read => IoOpcode::Read,
            Operation::Write => IoOpcode::Write,
            Operation::WriteZeroes => IoOpcode::WriteZeroes,
            Operation::Flush => IoOpcode::Flush,
        };
        entry.opcode = opcode as u8;
        if opcode != IoOpcode::Flush {
            entry.cdw10.set((command.lba & 0xffff_ffff) as u32);
            entry.cdw11.set((command.lba >> 32) as u32);
            let fua = if command.durable { FUA } else { 0 };
            entry.cdw12.set((command.blocks.wrapping_sub(1) & 0xffff) | fua);
        }
        if matches!(opcode, IoOpcode::Read | IoOpcode::Write) {
            let length = (u64::from(command.blocks) << block_shift).min(MAX_TRANSFER);
            let list = self.lists + u64::from(cid) * LIST;
            (entry.prp1, entry.prp2) = data_pointer(memory, command.buffer, length, list)?;
        }
        self.submit_entry(memory, entry)
    }

    /// Puts a raw command into the queue, without ringing; its identifier is set here. `None`: the queue is full.
    pub fn submit_entry<M: Memory>(
        &mut self,
        memory: &M,
        mut entry: SubmissionEntry,
    ) -> Result<Option<u16>, MemoryFault> {
        let Some(&cid) = self.free.last() else { return Ok(None) };
        entry.cid.set(cid);
        memory.write(self.sq + u64::from(self.tail) * SUBMISSION_ENTRY, entry.as_bytes())?;
        self.free.pop();
        if let Some(used) = self.in_use.get_mut(usize::from(cid)) {
            *used = true;
        }
        self.tail = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
        Ok(Some(cid))
    }

    /// Tells the controller of the commands submitted since the last ring.
    pub fn ring<M: Memory, B: Bar>(&mut self, memory: &M, bar: &mut B) -> io::Result<()> {
        if self.tail == self.rung_tail {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.rung_tail, self.tail);
        let places = self.shadow.map(|shadow| (shadow.tail, shadow.tail_event));
        announce(memory, bar, places, (old, self.tail), tail_doorbell(self.id))
    }

    /// The next completion, if there is one.
    pub fn reap<M: Memory>(&mut self, memory: &M) -> Result<Option<Done>, Error> {
        let address = self.cq + u64::from(self.head) * COMPLETION_ENTRY;
        let last = memory.load_u32(address + 12)?;
        if (last >> 16 & 1 == 1) != self.phase {
            return Ok(None);
        }
        let mut entry = Completion::default();
        memory.read(address, entry.as_mut_bytes())?;
        let cid = entry.cid.get();
        match self.in_use.get_mut(usize::from(cid)) {
            Some(used) if *used => *used = false,
            _ => return Err(Error::Protocol("it completed a command that was not submitted")),
        }
        self.free.push(cid);
        self.head = if self.head + 1 == self.entries { 0 } else { self.head + 1 };
        self.phase ^= self.head == 0;
        Ok(Some(Done { cid, status: entry.status(), result: entry.result.get() }))
    }

    /// Frees the completion entries reaped since the last call.
    pub fn acknowledge<M: Memory, B: Bar>(&mut self, memory: &M, bar: &mut B) -> io::Result<()> {
        if self.head == self.rung_head {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.rung_head, self.head);
        let places = self.shadow.map(|shadow| (shadow.head, shadow.head_event));
        announce(memory, bar, places, (old, self.head), head_doorbell(self.id))
    }
}

/// Gives a doorbell value to the controller: through memory if it reads it there, and through the register if it
/// asked for that.
fn announce<M: Memory, B: Bar>(
    memory: &M,
    bar: &mut B,
    places: Option<(u64, u64)>,
    (old, new): (u16, u16),
    register: u64,
) -> io::Result<()> {
    if let Some((doorbell, event)) = places {
        memory.store_u32(doorbell, u32::from(new)).map_err(io::Error::other)?;
        // The other side writes the event index, then reads the doorbell.
        fence(Ordering::SeqCst);
        let event = memory.load_u32(event).map_err(io::Error::other)?;
        let event = (event & 0xffff) as u16;
        if new.wrapping_sub(event).wrapping_sub(1) >= new.wrapping_sub(old) {
            return Ok(());
        }
    }
    bar.write(register, &u32::from(new).to_le_bytes())
}

type DataPointer = (zerocopy::little_endian::U64, zerocopy::little_endian::U64);

/// PRP entries for a contiguous buffer; the list goes to `list` if one is needed.
pub(super) fn data_pointer<M: Memory>(
    memory: &M,
    buffer: u64,
    length: u64,
    list: u64,
) -> Result<DataPointer, MemoryFault> {
    let first = PAGE - buffer % PAGE;
    let second = buffer.wrapping_add(first);
    if length <= first {
        return Ok((buffer.into(), 0.into()));
    }
    let pages = (length - first).div_ceil(PAGE);
    if pages == 1 {
        return Ok((buffer.into(), second.into()));
    }
    let mut entries = [0u8; 512];
    let mut used = 0;
    for (entry, page) in entries.as_chunks_mut::<8>().0.iter_mut().zip(0..pages) {
        *entry = second.wrapping_add(page * PAGE).to_le_bytes();
        used += 8;
    }
    memory.write(list, entries.get(..used).unwrap_or_default())?;
    Ok((buffer.into(), list.into()))
}
