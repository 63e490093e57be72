//! The bounded record of what happened.

use crate::{Digest, Region};

/// Most entries kept.
pub const RECORD: usize = 256;

/// Something that the chip saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The board's writes were refused: consecutive attempts on one region, until the record was read.
    WriteRefused {
        /// Which region.
        region: Region,
        /// Offset of the first attempt.
        offset: u64,
        /// Bytes of all attempts.
        bytes: u64,
        /// How many attempts.
        attempts: u64,
        /// How many of them would have changed something. Firmware that looks for its flash writes what is there.
        changing: u64,
    },
    /// Reset was let go.
    ResetReleased,
    /// Reset was taken.
    ResetHeld,
    /// An authorised image was written and read back.
    Updated {
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

/// The newest [`RECORD`] events. Attempts in a row make one event, so a guest that writes in a loop does not
/// push out what happened before.
#[derive(Debug, Clone)]
pub struct Record {
    /// An entry sits at its sequence number modulo [`RECORD`].
    entries: [Option<Entry>; RECORD],
    last: u64,
    /// Sequence number of the newest entry that was given out: those do not change any more.
    read: u64,
    refused_writes: u64,
}

impl Record {
    pub(crate) const fn new() -> Self {
        Self { entries: [None; RECORD], last: 0, read: 0, refused_writes: 0 }
    }

    /// Refused writes since the chip started.
    #[must_use]
    pub const fn refused_writes(&self) -> u64 {
        self.refused_writes
    }

    /// How many events are no longer kept.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.last.saturating_sub(RECORD as u64)
    }

    /// The kept events with a sequence number greater than `after`, oldest first.
    pub fn after(&mut self, after: u64) -> impl Iterator<Item = Entry> {
        self.read = self.last;
        (after.max(self.dropped())..self.last).filter_map(|seq| *self.slot(seq + 1))
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.last += 1;
        *self.slot_mut(self.last) = Some(Entry { seq: self.last, event });
    }

    pub(crate) fn write_refused(&mut self, region: Region, offset: u64, length: u64, changing: bool) {
        self.refused_writes = self.refused_writes.saturating_add(1);
        let unread = self.last > self.read;
        let changing = u64::from(changing);
        if let Some(Entry {
            event: Event::WriteRefused { region: same, bytes, attempts, changing: more, .. },
            ..
        }) = self.slot_mut(self.last)
            && unread
            && *same == region
        {
            *bytes = bytes.saturating_add(length);
            *attempts = attempts.saturating_add(1);
            *more = more.saturating_add(changing);
        } else {
            self.push(Event::WriteRefused { region, offset, bytes: length, attempts: 1, changing });
        }
    }

    const fn slot(&self, seq: u64) -> &Option<Entry> {
        &self.entries[Self::index(seq)]
    }

    const fn slot_mut(&mut self, seq: u64) -> &mut Option<Entry> {
        &mut self.entries[Self::index(seq)]
    }

    const fn index(seq: u64) -> usize {
        // Truncating keeps the low bits, and RECORD is a power of two.
        #[allow(clippy::cast_possible_truncation)]
        {
            seq as usize % RECORD
        }
    }
}
