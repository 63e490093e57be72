//! The event log of a start: what was measured into which PCR, in that order. Every stage appends to it and hands
//! it on in sealed memory at file descriptor [`DESCRIPTOR`].
//!
//! An entry is 72 bytes: PCR as u32 big-endian, name as 36 bytes UTF-8 padded with zeros, SHA-256.

use crate::Digest;

/// Where the next stage finds the log.
pub const DESCRIPTOR: i32 = 3;
/// Bytes of an entry.
pub const ENTRY: usize = 72;
/// Bytes for an entry's name.
pub const NAME: usize = 36;
/// Most entries of a log.
pub const MAX_EVENTS: usize = 64;
/// Most bytes of a log.
pub const MAX_BYTES: usize = ENTRY * MAX_EVENTS;
/// Highest PCR that no software can reset.
pub const MAX_PCR: u8 = 15;

/// PCR of what the boot ROM measures.
pub const ROM_PCR: u8 = 8;
/// Name of the entry for the root public key.
pub const ROOT_KEY: &str = "root key";
/// Name of the entry for header and image of stage 1.
pub const STAGE_1: &str = "stage 1";
/// PCR of what stage 1 measures.
pub const STAGE_1_PCR: u8 = 9;
/// Name of the entry for the release's signed manifest.
pub const RELEASE: &str = "release";
/// Name of the entry for the controller.
pub const CONTROLLER: &str = "controller";

/// One measurement. A value of this type is well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event([u8; ENTRY]);

impl Event {
    /// `None` if the PCR is not one of 0 to [`MAX_PCR`], or the name is empty, longer than [`NAME`] bytes or holds
    /// control characters.
    pub fn new(pcr: u8, name: &str, digest: &Digest) -> Option<Self> {
        let mut bytes = [0; ENTRY];
        let (head, rest) = bytes.split_first_chunk_mut::<4>()?;
        let (middle, tail) = rest.split_first_chunk_mut::<NAME>()?;
        *head = u32::from(pcr).to_be_bytes();
        *middle = crate::field(name)?;
        tail.copy_from_slice(digest);
        (pcr <= MAX_PCR).then_some(Self(bytes))
    }

    /// Reads an entry; `None` unless it is written as [`Event::new`] writes it.
    pub fn parse(bytes: &[u8; ENTRY]) -> Option<Self> {
        let event = Self(*bytes);
        let [0, 0, 0, pcr, ..] = *bytes else { return None };
        (Self::new(pcr, event.text()?, event.digest()?) == Some(event)).then_some(event)
    }

    /// The bytes of the entry.
    pub fn bytes(&self) -> &[u8; ENTRY] {
        &self.0
    }

    /// The PCR that was extended.
    pub fn pcr(&self) -> u8 {
        self.0[3]
    }

    /// What was measured.
    pub fn name(&self) -> &str {
        self.text().unwrap_or_default()
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> Digest {
        self.digest().copied().unwrap_or_default()
    }

    fn text(&self) -> Option<&str> {
        crate::text(self.0.get(4..4 + NAME)?)
    }

    fn digest(&self) -> Option<&Digest> {
        self.0.last_chunk()
    }
}

/// Why a log is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsError {
    /// It is no sequence of whole entries as this crate writes them.
    Malformed,
    /// It has, or would have, more than [`MAX_EVENTS`] entries.
    Full,
}

impl core::fmt::Display for EventsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the event log is no sequence of whole entries",
            Self::Full => "the event log has more entries than a start makes",
        })
    }
}

impl core::error::Error for EventsError {}

/// A whole log.
#[derive(Debug, Clone)]
pub struct Events {
    list: [[u8; ENTRY]; MAX_EVENTS],
    count: usize,
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Events {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Events {}

impl Events {
    /// An empty log.
    pub const fn new() -> Self {
        Self { list: [[0; ENTRY]; MAX_EVENTS], count: 0 }
    }

    /// Reads a log. An empty one is well formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventsError> {
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        if !rest.is_empty() {
            return Err(EventsError::Malformed);
        }
        let mut events = Self::new();
        for entry in entries {
            events.push(Event::parse(entry).ok_or(EventsError::Malformed)?)?;
        }
        Ok(events)
    }

    /// Appends a measurement.
    pub fn push(&mut self, event: Event) -> Result<(), EventsError> {
        *self.list.get_mut(self.count).ok_or(EventsError::Full)? = event.0;
        self.count += 1;
        Ok(())
    }

    /// The measurements, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.list.iter().take(self.count).map(|entry| Event(*entry))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The log as it is handed on.
    pub fn bytes(&self) -> &[u8] {
        self.list.get(..self.count).unwrap_or_default().as_flattened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(pcr: u8, name: &str) -> Event {
        Event::new(pcr, name, &[7; 32]).unwrap()
    }

    #[test]
    fn an_entry_is_72_bytes_of_fixed_layout() {
        let event = event(ROM_PCR, ROOT_KEY);
        let mut expected = vec![0, 0, 0, 8];
        expected.extend_from_slice(b"root key");
        expected.resize(40, 0);
        expected.extend_from_slice(&[7; 32]);
        assert_eq!(&event.bytes()[..], expected);
        assert_eq!((event.pcr(), event.name(), event.sha256()), (8, "root key", [7; 32]));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        assert_eq!(Event::new(16, "a", &[0; 32]), None);
        for name in ["", "a\0b", "a\n", &"a".repeat(NAME + 1)] {
            assert_eq!(Event::new(8, name, &[0; 32]), None, "{name:?}");
        }
        assert!(Event::new(8, &"a".repeat(NAME), &[0; 32]).is_some());
        let good = *event(8, "stage 1").bytes();
        for (at, value) in [(0, 1), (3, 16), (4, 0), (5, 0xff), (20, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Event::parse(&bad), None, "{at}");
        }
    }

    #[test]
    fn a_log_holds_64_entries() {
        let mut events = Events::new();
        for _ in 0..MAX_EVENTS {
            events.push(event(9, "release")).unwrap();
        }
        assert_eq!(events.push(event(9, "release")), Err(EventsError::Full));
        assert_eq!(events.bytes().len(), MAX_BYTES);
        let mut long = events.bytes().to_vec();
        assert_eq!(Events::parse(&long).as_ref(), Ok(&events));
        assert_eq!(Events::parse(&long[1..]), Err(EventsError::Malformed));
        long.extend_from_slice(event(9, "release").bytes());
        assert_eq!(Events::parse(&long), Err(EventsError::Full));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(events) = Events::parse(&bytes) {
                prop_assert_eq!(events.bytes(), &bytes[..]);
            }
        }

        #[test]
        fn what_is_written_is_read(names in prop::collection::vec("[a-z0-9 -]{1,36}", 0..8), pcr in 0..=MAX_PCR) {
            let mut events = Events::new();
            for name in &names {
                events.push(event(pcr, name)).unwrap();
            }
            let read = Events::parse(events.bytes()).unwrap();
            prop_assert_eq!(read.iter().map(|e| e.name().to_owned()).collect::<Vec<_>>(), names);
        }
    }
}
