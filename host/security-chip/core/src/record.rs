//! The bounded record of what happened.

use crate::{Digest, Line, Master, Region};

/// Most entries kept.
pub const RECORD: usize = 256;

/// What a refused access was to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A part of a firmware flash.
    Flash(Region),
    /// What a firmware flash keeps beside its bytes: protection bits, one-time areas, all that unknown commands change.
    Registers,
    /// The memory that says which board this is.
    Identity,
    /// The reset controller.
    ResetController,
}

/// Refused accesses of one kind in a row, until the record was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Who.
    pub master: Master,
    /// To what.
    pub target: Target,
    /// Where the first one began, in bytes from the target's beginning.
    pub offset: u64,
    /// Bytes of all attempts.
    pub bytes: u64,
    /// How many attempts.
    pub attempts: u64,
    /// How many of them would have changed something. Firmware that looks for its flash writes what is there.
    pub changing: u64,
}

/// Something that the chip saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Writes were refused.
    WriteRefused(Attempts),
    /// A master tried to read what is not its own.
    ReadRefused(Attempts),
    /// A line was let go.
    Released(Line),
    /// A line was taken.
    Held(Line),
    /// An authorised image was written and read back.
    Updated {
        /// Whose firmware.
        of: Master,
        /// Its digest.
        digest: Digest,
    },
    /// An update was refused.
    UpdateRefused {
        /// The refusal's code.
        code: &'static str,
    },
}

/// One numbered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Increases by one with each event, from 1.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

/// The newest `SIZE` events. Attempts in a row make one event, so a guest that writes in a loop does not push out what
/// happened before.
#[derive(Debug, Clone)]
pub struct Record<const SIZE: usize> {
    /// An entry sits at its sequence number modulo `SIZE`.
    entries: [Option<Entry>; SIZE],
    last: u64,
    /// Sequence number of the newest entry that was given out: those do not change any more.
    read: u64,
    refused_writes: u64,
}

impl<const SIZE: usize> Record<SIZE> {
    pub(crate) const fn new() -> Self {
        const { assert!(SIZE > 0) }
        Self { entries: [None; SIZE], last: 0, read: 0, refused_writes: 0 }
    }

    /// Refused writes since the chip started.
    #[must_use]
    pub const fn refused_writes(&self) -> u64 {
        self.refused_writes
    }

    /// How many events are no longer kept.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.last.saturating_sub(SIZE as u64)
    }

    /// The kept events with a sequence number greater than `after`, oldest first.
    pub fn after(&mut self, after: u64) -> impl Iterator<Item = Entry> {
        self.read = self.last;
        (after.max(self.dropped())..self.last).filter_map(|seq| self.entries[Self::index(seq + 1)])
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.last += 1;
        self.entries[Self::index(self.last)] = Some(Entry { seq: self.last, event });
    }

    pub(crate) fn write_refused(&mut self, attempt: Attempts) {
        self.refused_writes = self.refused_writes.saturating_add(1);
        self.refused(Event::WriteRefused(attempt), attempt);
    }

    pub(crate) fn read_refused(&mut self, attempt: Attempts) {
        self.refused(Event::ReadRefused(attempt), attempt);
    }

    /// Counts an attempt with the last event, if that is of the same kind and nobody has read it yet.
    fn refused(&mut self, event: Event, attempt: Attempts) {
        let unread = self.last > self.read;
        let last = self.entries[Self::index(self.last)].as_mut().map(|entry| &mut entry.event);
        let before = match (last, event) {
            (Some(Event::WriteRefused(before)), Event::WriteRefused(_))
            | (Some(Event::ReadRefused(before)), Event::ReadRefused(_)) => Some(before),
            _ => None,
        };
        match before {
            Some(before) if unread && (before.master, before.target) == (attempt.master, attempt.target) => {
                before.bytes = before.bytes.saturating_add(attempt.bytes);
                before.attempts = before.attempts.saturating_add(attempt.attempts);
                before.changing = before.changing.saturating_add(attempt.changing);
            }
            _ => self.push(event),
        }
    }

    const fn index(seq: u64) -> usize {
        // Less than `SIZE`, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        {
            (seq % SIZE as u64) as usize
        }
    }
}
