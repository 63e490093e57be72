//! The host's log: one file of JSON lines, each of which carries the hash of the line before. A record is
//! durable before [`Log::append`] returns. The log refuses to grow beyond its capacity and, after a write
//! that failed, refuses for good: a host that cannot write its log does nothing.
//!
//! The chain shows that records were changed, left out or put in; that the file was cut at its end or its last
//! record changed, only a reader who remembers that record can tell.

use crate::clock::Clock;
use host_api::{
    Api, Code, GENESIS, LogPage, LogRecord, LogStatus, MAX_RECORD, PeerAddress, RecordKind, Resource,
    Sentence, Sha256, Timestamp, TokenId,
};
use ids::Identity;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

mod writer;
pub use writer::Writer;

/// Most records in one page.
const PAGE: usize = 256;
/// Room that is kept for the outcome of every intent: an act that was recorded can always be completed.
const RESERVE: u64 = MAX_RECORD as u64;

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error("the host's log {path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another controller writes it.
    #[error("the host's log {0} is in use: another controller runs with this state")]
    InUse(String),
    /// Records were changed, taken out or put in.
    #[error(
        "the host's log is broken at record {0}: keep the file as evidence; the host needs a factory reset"
    )]
    Broken(u64),
    /// No room.
    #[error("the host's log is full")]
    Full,
    /// An earlier write failed; what is on disk is not known until the controller starts again.
    #[error("the host's log could not be written")]
    Poisoned,
}

/// What a record says, beside what the log itself adds.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it tells.
    pub kind: RecordKind,
    /// Which operation.
    pub api: Option<Api>,
    /// Whose token.
    pub subject: Option<Identity>,
    /// Which token.
    pub token: Option<TokenId>,
    /// What the request touches.
    pub resources: Vec<Resource>,
    /// Where it came from.
    pub peer: Option<PeerAddress>,
    /// The intent that this is the outcome of.
    pub intent: Option<u64>,
    /// Why, or what.
    pub code: Option<Code>,
    /// More about it.
    pub detail: Option<Sentence>,
    /// Whether the host itself makes the record, or a caller whose token and proof were verified. Others
    /// cannot fill the whole log.
    pub trusted: bool,
}

impl Entry {
    /// An entry with nothing in it.
    pub fn new(kind: RecordKind) -> Self {
        Self {
            kind,
            api: None,
            subject: None,
            token: None,
            resources: Vec::new(),
            peer: None,
            intent: None,
            code: None,
            detail: None,
            trusted: false,
        }
    }

    /// Something that nobody asked for.
    pub fn event(code: &str, detail: &str) -> Self {
        Self {
            code: code.parse().ok(),
            detail: Some(Sentence::from_lossy(detail)),
            ..Self::new(RecordKind::Event)
        }
    }
}

/// The open log.
#[derive(Debug)]
pub struct Log {
    file: File,
    capacity: u64,
    clock: Clock,
    /// The time of the latest record that was there when the log was opened, since the Unix epoch.
    resumed: Duration,
    /// Where each record starts.
    offsets: Vec<u64>,
    bytes: u64,
    prev: [u8; 32],
    open_intents: u64,
    poisoned: bool,
}

impl Log {
    /// Opens or makes the log at `path`, which may hold at most `capacity` bytes, and checks its chain. An
    /// unfinished last line is cut off (what it announced was never done), and intents without an outcome
    /// get one; both are recorded.
    pub fn open(path: &Path, capacity: u64) -> Result<Self, LogError> {
        let failed = |source: io::Error| LogError::File { path: path.display().to_string(), source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| LogError::InUse(path.display().to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let mut log = Self::on(file.into(), capacity);
        let mut interrupted = BTreeSet::new();
        let torn = log.read_chain(&mut interrupted).map_err(|error| match error {
            ReadError::Io(source) => failed(source),
            ReadError::Broken(seq) => LogError::Broken(seq),
        })?;
        log.clock = Clock::system(log.resumed);
        let mut entries: Vec<_> = interrupted
            .into_iter()
            .map(|seq| Entry {
                intent: Some(seq),
                code: "host.interrupted".parse().ok(),
                ..Entry::new(RecordKind::Outcome)
            })
            .collect();
        if torn > 0 {
            log.file.set_len(log.bytes).and_then(|()| log.file.sync_all()).map_err(failed)?;
            let detail = format!("{torn} bytes of an unfinished record were cut off");
            entries.push(Entry { trusted: true, ..Entry::event("log.recovered", &detail) });
        }
        log.open_intents = entries.len() as u64;
        log.append(&entries).into_iter().try_for_each(|result| result.map(drop))?;
        log.open_intents = 0;
        Ok(log)
    }

    /// An empty log on an open file.
    pub(crate) fn on(file: File, capacity: u64) -> Self {
        Self {
            file,
            capacity,
            clock: Clock::system(Duration::ZERO),
            resumed: Duration::ZERO,
            offsets: Vec::new(),
            bytes: 0,
            prev: GENESIS,
            open_intents: 0,
            poisoned: false,
        }
    }

    /// Reads and checks what is there; gives the bytes after the last line feed.
    fn read_chain(&mut self, interrupted: &mut BTreeSet<u64>) -> Result<u64, ReadError> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut line = Vec::new();
        loop {
            let seq = self.offsets.len() as u64 + 1;
            line.clear();
            let length = io::Read::take(&mut reader, RESERVE + 1).read_until(b'\n', &mut line)? as u64;
            let Some(text) = line.strip_suffix(b"\n") else {
                return if length > RESERVE { Err(ReadError::Broken(seq)) } else { Ok(length) };
            };
            let record: LogRecord = serde_json::from_slice(text).map_err(|_| ReadError::Broken(seq))?;
            let hash = record.follows(seq, &self.prev).map_err(|broken| ReadError::Broken(broken.seq))?;
            if record.line().as_bytes() != text {
                return Err(ReadError::Broken(seq));
            }
            match record.kind {
                RecordKind::Intent => drop(interrupted.insert(seq)),
                RecordKind::Outcome => drop(record.intent.map(|intent| interrupted.remove(&intent))),
                RecordKind::Refusal | RecordKind::Event => {}
            }
            self.offsets.push(self.bytes);
            self.bytes += length;
            self.prev = hash;
            self.resumed = self.resumed.max(since_epoch(&record.time));
        }
    }

    /// Appends `entries` in order with one write and one `fdatasync`; gives each one's sequence number. The
    /// records are durable when this returns.
    pub fn append(&mut self, entries: &[Entry]) -> Vec<Result<u64, LogError>> {
        if self.poisoned {
            return entries.iter().map(|_| Err(LogError::Poisoned)).collect();
        }
        let mut block = Vec::new();
        let start = self.bytes;
        let results: Vec<_> = entries.iter().map(|entry| self.push(entry, start, &mut block)).collect();
        let written = match block.is_empty() {
            true => Ok(()),
            false => self.file.write_all_at(&block, start).and_then(|()| self.file.sync_data()),
        };
        match written {
            Ok(()) => results,
            Err(error) => {
                tracing::error!(%error, "the host's log cannot be written: the host does nothing from now on");
                self.poisoned = true;
                results.into_iter().map(|_| Err(LogError::Poisoned)).collect()
            }
        }
    }

    fn push(&mut self, entry: &Entry, start: u64, block: &mut Vec<u8>) -> Result<u64, LogError> {
        let seq = self.offsets.len() as u64 + 1;
        let line = record(entry, seq, self.clock.now(), &self.prev).line();
        let length = line.len() as u64 + 1;
        let reserved = match entry.kind {
            RecordKind::Intent => self.open_intents + 1,
            RecordKind::Outcome => self.open_intents.saturating_sub(1),
            RecordKind::Refusal | RecordKind::Event => self.open_intents,
        };
        // Strangers can fill three quarters of the log, guests and components another eighth: the last eighth
        // stays for those who may act, and for the host's own start and end.
        let capacity = match entry.kind {
            RecordKind::Refusal if !entry.trusted => self.capacity / 4 * 3,
            RecordKind::Event if !entry.trusted => self.capacity / 8 * 7,
            _ => self.capacity,
        };
        if length > RESERVE || self.bytes + length + reserved * RESERVE > capacity {
            return Err(LogError::Full);
        }
        block.extend_from_slice(line.as_bytes());
        block.push(b'\n');
        self.open_intents = reserved;
        self.offsets.push(self.bytes);
        self.bytes = start + block.len() as u64;
        self.prev = LogRecord::hash_of(line.as_bytes());
        Ok(seq)
    }

    /// The next records after number `after`.
    pub fn page(&self, after: u64) -> Result<LogPage, LogError> {
        let first = usize::try_from(after).unwrap_or(usize::MAX).min(self.offsets.len());
        let end = first.saturating_add(PAGE).min(self.offsets.len());
        let from = self.offsets.get(first).copied().unwrap_or(self.bytes);
        let to = self.offsets.get(end).copied().unwrap_or(self.bytes);
        let mut block = vec![0; usize::try_from(to - from).map_err(|_| LogError::Full)?];
        self.file.read_exact_at(&mut block, from).map_err(|_| LogError::Poisoned)?;
        let records = block.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let records = records.map(serde_json::from_slice).collect::<Result<_, _>>();
        Ok(LogPage { records: records.map_err(|_| LogError::Poisoned)?, last: self.offsets.len() as u64 })
    }

    /// The clock that the records' times are from. It is never before the latest record.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// When the latest record of an earlier run was made, since the Unix epoch; zero if there was none.
    pub fn resumed(&self) -> Duration {
        self.resumed
    }

    /// How far the log has come.
    pub fn status(&self) -> LogStatus {
        LogStatus { last: self.offsets.len() as u64, bytes: self.bytes, capacity: self.capacity }
    }
}

enum ReadError {
    Io(io::Error),
    Broken(u64),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn record(entry: &Entry, seq: u64, now: Duration, prev: &[u8; 32]) -> LogRecord {
    let entry = entry.clone();
    LogRecord {
        seq,
        time: timestamp(now),
        kind: entry.kind,
        api: entry.api,
        subject: entry.subject,
        token: entry.token,
        resources: entry.resources,
        peer: entry.peer,
        intent: entry.intent,
        code: entry.code,
        detail: entry.detail,
        prev: Sha256::from_digest(prev),
    }
}

/// A moment since the Unix epoch as the API writes it, to the microsecond.
fn timestamp(moment: Duration) -> Timestamp {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let moment = moment.try_into().ok().and_then(|since| OffsetDateTime::UNIX_EPOCH.checked_add(since));
    let text = moment.and_then(|moment| moment.format(&form).ok()).unwrap_or_default();
    // Only a clock outside the years 0 to 9999 has no such form.
    text.parse().unwrap_or_else(|_| Timestamp::earliest())
}

/// The moment since the Unix epoch that a record tells; zero for what is no moment since.
fn since_epoch(time: &Timestamp) -> Duration {
    let moment = OffsetDateTime::parse(time.as_str(), &Rfc3339).ok();
    moment.and_then(|moment| (moment - OffsetDateTime::UNIX_EPOCH).try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
