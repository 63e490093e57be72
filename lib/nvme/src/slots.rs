//! The commands that the backend holds.

use crate::{Operation, Tag};

/// Whom a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: the tag is free.
    Free,
    /// A command.
    Command {
        /// Its submission queue.
        sq: u16,
        /// Its identifier.
        cid: u16,
    },
    /// The flush at the end of a shutdown.
    Shutdown,
}

/// A request in flight.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) owner: Owner,
    pub(crate) operation: Operation,
    pub(crate) lba: u64,
    pub(crate) bytes: u64,
    pub(crate) since: u64,
}

const FREE: Slot = Slot { owner: Owner::Free, operation: Operation::Flush, lba: 0, bytes: 0, since: 0 };

/// A table of requests in flight.
pub(crate) struct Slots {
    list: Vec<Slot>,
    free: Vec<u16>,
}

impl Slots {
    pub(crate) fn new(count: u16) -> Self {
        Self { list: vec![FREE; usize::from(count)], free: (0..count).rev().collect() }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.list.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn take(&mut self, slot: Slot) -> Option<Tag> {
        let index = self.free.pop()?;
        *self.list.get_mut(usize::from(index))? = slot;
        Some(Tag(index))
    }

    /// Frees a tag; `None` if it was free.
    pub(crate) fn release(&mut self, tag: Tag) -> Option<Slot> {
        let place = self.list.get_mut(tag.index())?;
        if place.owner == Owner::Free {
            return None;
        }
        let slot = std::mem::replace(place, FREE);
        self.free.push(tag.0);
        Some(slot)
    }

    /// Requests of one submission queue, or the one of `cid` there.
    pub(crate) fn of_queue(&self, sq: u16, cid: Option<u16>) -> Vec<Tag> {
        let belongs = |slot: &Slot| match slot.owner {
            Owner::Command { sq: owner, cid: id } => owner == sq && cid.is_none_or(|cid| cid == id),
            _ => false,
        };
        (0u16..).zip(&self.list).filter(|(_, slot)| belongs(slot)).map(|(index, _)| Tag(index)).collect()
    }
}
