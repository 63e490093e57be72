//! The host's log: records, each of which carries the hash of the one before, in encrypted segments
//! (`host_log`). A record is durable before [`Log::append`] returns, and the host has signed everything up to it.
//! The log refuses to grow beyond its capacity and, after a write that failed, refuses for good: a host that
//! cannot write its log does nothing.
//!
//! Whole segments go when the audit service holds their records ([`Log::acknowledge`]); what is left begins with
//! the host's signature over what came before. A run never writes into a segment of an earlier one, so no nonce
//! is used twice.
//!
//! What is here shows that records were changed, left out or put in. That the log was cut at its end, only a
//! reader who remembers what was there can tell (`host_api::LogReader`).

use crate::{clock::Clock, history::History};
use host_api::{Api, GENESIS, LogHead, LogRecord, LogStatus, MAX_RECORD, RecordKind};
use host_log::{Batch, Cipher, HEADER, LogKey, Sealer, Start};
use service::Key;
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

mod disk;
mod entry;
mod opening;
mod page;
mod writer;

pub use entry::{Entry, Outcome};
pub use page::Plan;
pub use writer::Writer;

use disk::Folder;

/// Most records that become durable with one write.
const BATCH: usize = host_log::MAX_LINES / MAX_RECORD;
/// Most records of one entry: an intent, and an outcome that is known already.
const RECORDS: usize = 2;
/// Room that is kept for the outcome of every intent: an act that was recorded can always be completed.
const RESERVE: u64 = (HEADER + Batch::length(MAX_RECORD)) as u64;
/// A segment that has so many bytes is followed by another, or sooner in a small log.
const SEGMENT: u64 = 4 * 1024 * 1024;
const SMALL_SEGMENT: u64 = 16 * 1024;

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder or a file in it.
    #[error("the host's log {path}: {source}")]
    File {
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another controller writes it.
    #[error("the host's log {0} is in use: another controller runs with this state")]
    InUse(String),
    /// Something was changed, taken out or put in.
    #[error(
        "the host's log is broken in segment {segment}, at record {seq} or after: keep the folder as evidence; \
         the host needs a factory reset"
    )]
    Broken {
        /// Which segment.
        segment: u64,
        /// The record that should have come next.
        seq: u64,
    },
    /// A later release wrote it.
    #[error("the host's log has format version {0}: start the release that wrote it, or a later one")]
    Version(u16),
    /// The key is another's.
    #[error(
        "the host's log was written with another log key: give the state and the TPM that belong together"
    )]
    Key,
    /// No room.
    #[error("the host's log is full")]
    Full,
    /// An earlier write failed; what is on disk is not known until the controller starts again.
    #[error("the host's log could not be written")]
    Poisoned,
    /// A record that is not there cannot be acknowledged.
    #[error("the host's log ends at record {0}: nothing after it can be acknowledged")]
    Ahead(u64),
}

impl LogError {
    /// Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "log.file",
            Self::InUse(_) => "log.in-use",
            Self::Broken { .. } => "log.broken",
            Self::Version(_) => "log.version",
            Self::Key => "log.key",
            Self::Full => "log.full",
            Self::Poisoned => "log.failed",
            Self::Ahead(_) => "log.ahead",
        }
    }
}

/// A segment on disk.
#[derive(Debug)]
struct Stored {
    start: Start,
    cipher: Arc<Cipher>,
    /// The first record of each frame, and where the frame is.
    frames: Vec<(u64, Range<u64>)>,
    last: u64,
    bytes: u64,
}

/// The open log.
pub struct Log {
    folder: Folder,
    capacity: u64,
    clock: Clock,
    /// The time of the latest record that was there when the log was opened, since the Unix epoch.
    resumed: Duration,
    history: History,
    key: LogKey,
    identity: Key,
    segments: VecDeque<Stored>,
    /// What the last segment is written with, once this run has begun it.
    current: Option<(Arc<File>, Sealer)>,
    bytes: u64,
    base: LogHead,
    /// The last durable record.
    head: LogHead,
    acknowledged: u64,
    /// Intents without an outcome.
    open: BTreeSet<u64>,
    poisoned: bool,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("head", &self.head.seq)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Records on their way into one frame.
struct Draft {
    lines: Vec<u8>,
    seq: u64,
    hash: [u8; 32],
    /// What the log will hold without the lines.
    bytes: u64,
}

/// Records on their way to the disk.
struct Flight {
    results: Vec<Result<u64, LogError>>,
    /// Nothing where no record is to be written.
    write: io::Result<Option<Write>>,
}

/// One frame, with the header before it where a segment begins.
struct Write {
    file: Arc<File>,
    block: Vec<u8>,
    /// Where the block goes, and where in the block the frame begins.
    at: u64,
    header: u64,
    first: u64,
    head: LogHead,
}

impl Flight {
    /// Makes the records durable, with one write and one `fdatasync`.
    fn land(&self) -> io::Result<()> {
        let Ok(Some(write)) = &self.write else { return Ok(()) };
        write.file.write_all_at(&write.block, write.at)?;
        write.file.sync_data()
    }
}

impl Log {
    fn empty(folder: Folder, capacity: u64, key: LogKey, identity: Key) -> Self {
        let head = LogHead::sign(0, &GENESIS, identity.pair());
        Self {
            folder,
            capacity,
            clock: Clock::system(Duration::ZERO),
            resumed: Duration::ZERO,
            history: History::default(),
            key,
            identity,
            segments: VecDeque::new(),
            current: None,
            bytes: 0,
            base: head.clone(),
            head,
            acknowledged: 0,
            open: BTreeSet::new(),
            poisoned: false,
        }
    }

    /// Appends `entries` in order, with one write and one `fdatasync` for up to 32 of them; gives the sequence number of
    /// each one's first record. The records are durable when this returns.
    pub fn append(&mut self, entries: &[Entry]) -> Vec<Result<u64, LogError>> {
        let append = |entries| {
            let flight = self.take_off(entries);
            let landed = flight.land();
            self.landed(flight, landed)
        };
        entries.chunks(BATCH / RECORDS).flat_map(append).collect()
    }

    /// Seals entries of up to [`BATCH`] records. They are records of this log when they are durable and [`Log::landed`]; until
    /// then there must be no other.
    fn take_off(&mut self, entries: &[Entry]) -> Flight {
        if self.poisoned {
            let results = entries.iter().map(|_| Err(LogError::Poisoned)).collect();
            return Flight { results, write: Ok(None) };
        }
        let header = if self.is_between_segments() { HEADER } else { 0 };
        let mut draft = Draft {
            lines: Vec::new(),
            seq: self.head.seq,
            hash: self.head.hash.to_digest(),
            bytes: self.bytes + (header + Batch::length(0)) as u64,
        };
        let results = entries.iter().map(|entry| self.push(entry, &mut draft)).collect();
        let write = if draft.lines.is_empty() { Ok(None) } else { self.seal(&draft).map(Some) };
        Flight { results, write }
    }

    /// Learns what became of a flight; gives each entry's sequence number.
    fn landed(&mut self, flight: Flight, landed: io::Result<()>) -> Vec<Result<u64, LogError>> {
        match landed.and(flight.write) {
            Ok(write) => {
                write.into_iter().for_each(|write| self.grow(write));
                flight.results
            }
            Err(error) => {
                tracing::error!(%error, "the host's log cannot be written: the host does nothing from now on");
                self.poisoned = true;
                flight.results.into_iter().map(|_| Err(LogError::Poisoned)).collect()
            }
        }
    }

    fn push(&mut self, entry: &Entry, draft: &mut Draft) -> Result<u64, LogError> {
        let seq = draft.seq + 1;
        let (mut lines, mut hash, mut longest) = (Vec::new(), draft.hash, 0);
        for (entry, seq) in [(Some(entry.clone()), seq), (entry.ending(seq), seq + 1)] {
            let Some(entry) = entry else { continue };
            let line = entry::record(entry, seq, self.clock.now(), &hash).line();
            hash = LogRecord::hash_of(line.as_bytes());
            longest = longest.max(line.len() + 1);
            lines.extend_from_slice(line.as_bytes());
            lines.push(b'\n');
        }
        let closes = entry.intent.is_some_and(|intent| self.open.contains(&intent));
        let open = match entry.kind {
            RecordKind::Intent if entry.outcome.is_none() => self.open.len() + 1,
            RecordKind::Outcome if closes => self.open.len() - 1,
            RecordKind::Intent | RecordKind::Outcome | RecordKind::Refusal | RecordKind::Event => {
                self.open.len()
            }
        };
        let needed = draft.bytes + (draft.lines.len() + lines.len()) as u64 + open as u64 * RESERVE;
        if longest > MAX_RECORD || needed > self.room(entry) {
            return Err(LogError::Full);
        }
        match (entry.kind, entry.intent) {
            (RecordKind::Intent, _) if entry.outcome.is_none() => drop(self.open.insert(seq)),
            (RecordKind::Outcome, Some(intent)) => drop(self.open.remove(&intent)),
            _ => {}
        }
        draft.hash = hash;
        draft.lines.extend(lines);
        draft.seq += entry.records() as u64;
        Ok(seq)
    }

    /// How far the log may grow with this entry. Strangers can fill three quarters of it, guests and components
    /// another eighth, those who may act another sixteenth: the last stays for the host's own start and end, for
    /// what was begun, and for those who make room.
    fn room(&self, entry: &Entry) -> u64 {
        let sixteenths = match entry.kind {
            RecordKind::Refusal if !entry.trusted => 12,
            RecordKind::Event if !entry.trusted => 14,
            RecordKind::Refusal => 15,
            RecordKind::Intent if entry.api != Some(Api::AcknowledgeLog) => 15,
            RecordKind::Intent | RecordKind::Outcome | RecordKind::Event => 16,
        };
        self.capacity / 16 * sixteenths
    }

    /// Length of a full segment.
    fn full(&self) -> u64 {
        (self.capacity / 16).clamp(SMALL_SEGMENT, SEGMENT)
    }

    fn is_between_segments(&self) -> bool {
        self.current.is_none() || self.segments.back().is_none_or(|segment| segment.bytes >= self.full())
    }

    fn seal(&mut self, draft: &Draft) -> io::Result<Write> {
        let mut block = if self.is_between_segments() { self.begin()?.to_vec() } else { Vec::new() };
        let (Some((file, sealer)), Some(stored)) = (&mut self.current, self.segments.back()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let head = LogHead::sign(draft.seq, &draft.hash, self.identity.pair());
        let first = self.head.seq + 1;
        let batch = Batch {
            first,
            last: draft.seq,
            signature: head.signature.to_bytes(),
            acknowledged: self.acknowledged,
            lines: &draft.lines,
        };
        let header = block.len() as u64;
        block.extend(sealer.seal(&batch).map_err(io::Error::other)?);
        Ok(Write { file: Arc::clone(file), block, at: stored.bytes, header, first, head })
    }

    /// Begins a segment, with room for all of it: to write there changes no file's length, so `fdatasync` has less to
    /// do. Gives its header.
    fn begin(&mut self) -> io::Result<[u8; HEADER]> {
        let start = Start {
            number: self.segments.back().map_or(1, |segment| segment.start.number + 1),
            seq: self.head.seq,
            hash: self.head.hash.to_digest(),
            signature: self.head.signature.to_bytes(),
        };
        let (sealer, header) = Sealer::new(&self.key, &start).map_err(io::Error::other)?;
        let file = self.folder.create(start.number, self.full())?;
        let cipher = sealer.cipher();
        self.segments.push_back(Stored { start, cipher, frames: Vec::new(), last: 0, bytes: 0 });
        self.current = Some((Arc::new(file), sealer));
        Ok(header)
    }

    fn grow(&mut self, write: Write) {
        let length = write.block.len() as u64;
        if let Some(stored) = self.segments.back_mut() {
            stored.bytes += length;
            stored.last = write.head.seq;
            stored.frames.push((write.first, write.at + write.header..stored.bytes));
        }
        self.bytes += length;
        self.head = write.head;
    }

    /// Learns that others hold the log up to record `up_to`, and takes away whole segments that nobody needs any
    /// more; gives the last record that is gone. Kept are the newest segment and those with an intent whose
    /// outcome is still to come. That the segments go is recorded before they do.
    pub fn acknowledge(&mut self, up_to: u64) -> Result<u64, LogError> {
        if up_to > self.head.seq {
            return Err(LogError::Ahead(self.head.seq));
        }
        self.acknowledged = self.acknowledged.max(up_to);
        let needed = self.open.first().map_or(self.acknowledged, |first| self.acknowledged.min(first - 1));
        let older = self.segments.len().saturating_sub(1);
        let gone = self.segments.iter().take(older).take_while(|segment| segment.last <= needed);
        let Some(last) = gone.last().map(|segment| segment.last) else { return Ok(self.base.seq) };
        let detail = format!("acknowledged up to record {}: the records up to {last} go", self.acknowledged);
        let event = Entry { trusted: true, ..Entry::event("log.acknowledged", &detail) };
        self.append(&[event]).into_iter().try_for_each(|result| result.map(drop))?;
        while let Some(segment) = self.segments.pop_front_if(|segment| segment.last <= last) {
            let number = segment.start.number;
            if let Err(source) = self.folder.remove(number).and_then(|()| self.folder.sync()) {
                self.segments.push_front(segment);
                return Err(LogError::File { path: format!("segment {number}"), source });
            }
            self.bytes -= segment.bytes;
            if let Some(next) = self.segments.front() {
                self.base = opening::head(&next.start);
            }
        }
        Ok(self.base.seq)
    }

    /// The clock that the records' times are from. It is never before the latest record.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the records of earlier runs tell; nothing the next time.
    pub fn take_history(&mut self) -> History {
        std::mem::take(&mut self.history)
    }

    /// When the latest record of an earlier run was made, since the Unix epoch; zero if there was none.
    pub fn resumed(&self) -> Duration {
        self.resumed
    }

    /// How far the log has come.
    pub fn status(&self) -> LogStatus {
        LogStatus { last: self.head.seq, bytes: self.bytes, capacity: self.capacity }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{log_key, on_disk};
