//! Shadow doorbells (§5.7, §7.13): the guest writes its doorbell values to a page of its memory, and rings the
//! register only when the value passes the event index that the controller left in a second page.
//!
//! While the controller polls, no ring is wanted, so the event index is parked on a value that no ring position
//! has. Before it sleeps, the controller sets the event index to what it has seen and looks once more. It need
//! not park again after waking up: an event index that the guest has passed rings once a lap at most, as a
//! parked one does.

use crate::Memory;

/// No queue has this many entries.
const PARKED: u32 = 0x8000;

/// The two pages that the guest named.
pub(crate) struct Shadow {
    doorbells: u64,
    events: u64,
}

fn tail_of(queue: u16) -> u64 {
    u64::from(queue) * 8
}

fn head_of(queue: u16) -> u64 {
    u64::from(queue) * 8 + 4
}

impl Shadow {
    pub(crate) fn new(doorbells: u64, events: u64) -> Self {
        Self { doorbells, events }
    }

    // A fault reads as "no news": a VMM may take memory away and bring it back while queues are live.
    pub(crate) fn tail<M: Memory>(&self, memory: &M, queue: u16) -> Option<u32> {
        memory.load_u32(self.doorbells.wrapping_add(tail_of(queue))).ok()
    }

    pub(crate) fn head<M: Memory>(&self, memory: &M, queue: u16) -> Option<u32> {
        memory.load_u32(self.doorbells.wrapping_add(head_of(queue))).ok()
    }

    /// Begins to use the pages for a submission queue, from the doorbell value that holds now.
    pub(crate) fn adopt_tail<M: Memory>(&self, memory: &M, queue: u16, tail: u16) {
        self.adopt(memory, tail_of(queue), tail);
    }

    /// The same for a completion queue.
    pub(crate) fn adopt_head<M: Memory>(&self, memory: &M, queue: u16, head: u16) {
        self.adopt(memory, head_of(queue), head);
    }

    fn adopt<M: Memory>(&self, memory: &M, offset: u64, value: u16) {
        // If the pages are not there, the guest's doorbells are not there either: nothing to report to anyone.
        let _ = memory.store_u32(self.doorbells.wrapping_add(offset), u32::from(value));
        let _ = memory.store_u32(self.events.wrapping_add(offset), PARKED);
    }

    /// Asks for a ring when the tail passes `tail`.
    pub(crate) fn want_tail<M: Memory>(&self, memory: &M, queue: u16, tail: u16) {
        let _ = memory.store_u32(self.events.wrapping_add(tail_of(queue)), u32::from(tail));
    }

    /// Asks for a ring when the head passes `head`.
    pub(crate) fn want_head<M: Memory>(&self, memory: &M, queue: u16, head: u16) {
        let _ = memory.store_u32(self.events.wrapping_add(head_of(queue)), u32::from(head));
    }
}
