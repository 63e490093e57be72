//! Asynchronous events (§5.2) and the error log (§5.14.1.1).

use crate::spec::Status;
use crate::spec::log::{ErrorEntry, id};
use std::collections::VecDeque;

/// Asynchronous Event Requests taken at once (AERL + 1).
pub(crate) const MAX_EVENT_REQUESTS: u8 = 4;
/// Entries of the error log (ELPE + 1).
pub(crate) const ERROR_ENTRIES: u8 = 16;

/// What a controller tells without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A doorbell of a queue that is not there.
    InvalidDoorbell,
    /// A doorbell value that the queue can not have.
    InvalidDoorbellValue,
    /// The namespace changed its size.
    NamespaceChanged,
}

const EVENTS: [Event; 3] = [Event::InvalidDoorbell, Event::InvalidDoorbellValue, Event::NamespaceChanged];

impl Event {
    /// Log page to read, information, type.
    fn describe(self) -> (u8, u8, u8) {
        match self {
            Self::InvalidDoorbell => (id::ERRORS, 0, 0),
            Self::InvalidDoorbellValue => (id::ERRORS, 1, 0),
            Self::NamespaceChanged => (id::CHANGED_NAMESPACES, 0, 2),
        }
    }
}

/// Events that happened and requests that wait for them.
#[derive(Default)]
pub(crate) struct Events {
    requests: VecDeque<u16>,
    /// One bit for each of `EVENTS`: several of one kind are told once.
    pending: u8,
    /// One bit for each event type that was told and whose log page was not read since.
    masked: u8,
}

impl Events {
    /// Takes a request; `false` if there are too many.
    #[must_use]
    pub(crate) fn request(&mut self, cid: u16) -> bool {
        let taken = self.requests.len() < usize::from(MAX_EVENT_REQUESTS);
        if taken {
            self.requests.push_back(cid);
        }
        taken
    }

    /// Takes a request back; `false` if it is not there.
    #[must_use]
    pub(crate) fn cancel(&mut self, cid: u16) -> bool {
        let found = self.requests.iter().position(|&request| request == cid);
        found.and_then(|index| self.requests.remove(index)).is_some()
    }

    pub(crate) fn raise(&mut self, event: Event) {
        self.pending |= 1 << event as u8;
    }

    /// Whether the next [`Self::report`] gives something.
    pub(crate) fn is_due(&self) -> bool {
        !self.requests.is_empty() && self.next().is_some()
    }

    fn next(&self) -> Option<Event> {
        EVENTS.into_iter().find(|&event| {
            let (_, _, kind) = event.describe();
            self.pending & (1 << event as u8) != 0 && self.masked & (1 << kind) == 0
        })
    }

    /// Answers a request: command identifier and result.
    pub(crate) fn report(&mut self) -> Option<(u16, u32)> {
        let event = self.next()?;
        let cid = self.requests.pop_front()?;
        let (page, information, kind) = event.describe();
        self.pending &= !(1 << event as u8);
        self.masked |= 1 << kind;
        Some((cid, u32::from(page) << 16 | u32::from(information) << 8 | u32::from(kind)))
    }

    /// A log page was read: events that it describes may be told again.
    pub(crate) fn page_was_read(&mut self, page: u8) {
        for event in EVENTS {
            let (described_by, _, kind) = event.describe();
            if described_by == page {
                self.masked &= !(1 << kind);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The last errors, newest first.
#[derive(Default)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    pub(crate) count: u64,
}

impl ErrorLog {
    /// An error of a command.
    pub(crate) fn command(&mut self, sq: u16, cid: u16, nsid: u32, lba: u64, status: Status) {
        self.push(ErrorEntry {
            sq_id: sq.into(),
            cid: cid.into(),
            nsid: nsid.into(),
            lba: lba.into(),
            status: (status.bits() << 1).into(),
            ..ErrorEntry::default()
        });
    }

    /// An error of no command.
    pub(crate) fn controller(&mut self) {
        self.push(ErrorEntry { sq_id: u16::MAX.into(), cid: u16::MAX.into(), ..ErrorEntry::default() });
    }

    fn push(&mut self, entry: ErrorEntry) {
        self.count += 1;
        self.entries.truncate(usize::from(ERROR_ENTRIES) - 1);
        let location = u16::MAX.into();
        self.entries.push_front(ErrorEntry { count: self.count.into(), location, ..entry });
    }

    pub(crate) fn page(&self) -> [ErrorEntry; ERROR_ENTRIES as usize] {
        let mut page = [ErrorEntry::default(); ERROR_ENTRIES as usize];
        for (place, entry) in page.iter_mut().zip(&self.entries) {
            *place = *entry;
        }
        page
    }
}
