//! Opening the log: every segment is read, opened and checked, and what a crash left is put right.

use super::{Entry, Log, LogError, Stored, disk::Folder, entry::since_epoch};
use crate::clock::Clock;
use host_api::{LogHead, LogRecord, RecordKind, Signature};
use host_log::{Fault, LogKey, Segment, Start};
use service::Key;
use std::{io, path::Path};
use token::PublicKey;

impl Log {
    /// Opens or begins the log in the folder `path`, which may hold at most `capacity` bytes, and checks all of
    /// it. An unfinished last write is cut off (what it announced was never done), and intents without an
    /// outcome get one; both are recorded.
    pub fn open(path: &Path, capacity: u64, key: LogKey, identity: Key) -> Result<Self, LogError> {
        let failed = |source: io::Error| LogError::File { path: path.display().to_string(), source };
        let folder = Folder::open(path).map_err(failed)?;
        let folder = folder.ok_or_else(|| LogError::InUse(path.display().to_string()))?;
        let numbers = folder.numbers().map_err(failed)?;
        let mut log = Self::empty(folder, capacity, key, identity);
        let mut torn = 0;
        for (at, number) in numbers.iter().enumerate() {
            let bytes = log.folder.read(*number).map_err(failed)?;
            let expected = numbers.first().is_some_and(|first| first.checked_add(at as u64) == Some(*number));
            let kept = if expected { log.take(*number, &bytes)? } else { return Err(log.broken(*number)) };
            if bytes.len() as u64 > kept {
                if at + 1 < numbers.len() {
                    return Err(log.broken(*number));
                }
                log.folder.cut(*number, kept).map_err(failed)?;
                torn = (host_log::written(&bytes) as u64).saturating_sub(kept);
            }
        }
        let first = numbers.first().copied().unwrap_or(1);
        if log.base.seq > log.acknowledged || (log.base.seq == 0) != (first == 1) {
            return Err(log.broken(first));
        }
        log.clock = Clock::system(log.resumed);
        log.put_right(torn)?;
        Ok(log)
    }

    /// Takes over a segment; gives how much of it is whole.
    fn take(&mut self, number: u64, bytes: &[u8]) -> Result<u64, LogError> {
        let Some(segment) = host_log::read(&self.key, bytes).map_err(|fault| self.fault(number, fault))?
        else {
            return Ok(0);
        };
        let Segment { start, cipher, frames, whole } = segment;
        if self.segments.is_empty() && self.head.seq == 0 {
            self.base = head(&start);
            self.head = head(&start);
        }
        let host = PublicKey(self.identity.public());
        let follows = start.number == number && head(&start) == self.head && self.head.verify(&host).is_ok();
        if !follows {
            return Err(self.broken(number));
        }
        if frames.is_empty() {
            return Ok(0);
        }
        let mut stored = Stored { start, cipher, frames: Vec::new(), last: 0, bytes: whole as u64 };
        for frame in &frames {
            if frame.first != self.head.seq + 1 || frame.acknowledged < self.acknowledged {
                return Err(self.broken(number));
            }
            let mut hash = self.head.hash.to_digest();
            let mut seq = self.head.seq;
            for line in frame.lines.split_inclusive(|byte| *byte == b'\n') {
                hash = self.follow(seq + 1, &hash, line).ok_or_else(|| self.broken(number))?;
                seq += 1;
            }
            self.head = LogHead::of(seq, &hash, Signature::from_bytes(&frame.signature));
            if seq != frame.last {
                return Err(self.broken(number));
            }
            self.acknowledged = frame.acknowledged;
            stored.frames.push((frame.first, frame.at.start as u64..frame.at.end as u64));
        }
        // The others' signatures were made by whoever made this one: all are under the log key.
        self.head.verify(&host).map_err(|_| self.broken(number))?;
        stored.last = self.head.seq;
        self.bytes += stored.bytes;
        self.segments.push_back(stored);
        Ok(whole as u64)
    }

    /// Takes over a record, which is to be number `seq`; gives its hash.
    fn follow(&mut self, seq: u64, prev: &[u8; 32], line: &[u8]) -> Option<[u8; 32]> {
        let text = line.strip_suffix(b"\n")?;
        let record: LogRecord = serde_json::from_slice(text).ok()?;
        let hash = record.follows(seq, prev).ok()?;
        match record.kind {
            RecordKind::Intent => drop(self.open.insert(seq)),
            RecordKind::Outcome => drop(record.intent.map(|intent| self.open.remove(&intent))),
            RecordKind::Refusal | RecordKind::Event => {}
        }
        let time = since_epoch(&record.time);
        self.resumed = self.resumed.max(time);
        self.history.take(&record, time);
        (record.line().as_bytes() == text).then_some(hash)
    }

    /// Records what the last run left undone.
    fn put_right(&mut self, torn: u64) -> Result<(), LogError> {
        let outcome = |seq: &u64| Entry {
            intent: Some(*seq),
            code: "host.interrupted".parse().ok(),
            ..Entry::new(RecordKind::Outcome)
        };
        let mut entries: Vec<_> = self.open.iter().map(outcome).collect();
        if torn > 0 {
            let detail = format!("{torn} bytes of an unfinished write were cut off");
            entries.push(Entry { trusted: true, ..Entry::event("log.recovered", &detail) });
        }
        self.append(&entries).into_iter().try_for_each(|result| result.map(drop))
    }

    fn broken(&self, segment: u64) -> LogError {
        LogError::Broken { segment, seq: self.head.seq + 1 }
    }

    fn fault(&self, segment: u64, fault: Fault) -> LogError {
        match fault {
            Fault::Version(version) => LogError::Version(version),
            Fault::Key => LogError::Key,
            Fault::Header | Fault::Frame(_) | Fault::Cipher => self.broken(segment),
        }
    }
}

/// What a segment says that comes before it.
pub(super) fn head(start: &Start) -> LogHead {
    LogHead::of(start.seq, &start.hash, Signature::from_bytes(&start.signature))
}
