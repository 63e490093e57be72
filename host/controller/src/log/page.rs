//! Reading pages while others write.

use super::{Log, LogError, Stored};
use host_api::{LogHead, LogPage};
use host_log::Cipher;
use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

/// How a page without records begins, up to where they would be.
const BEGINNING: &[u8] = b"{\"records\":[";
/// Most records in one page.
pub(super) const PAGE: u64 = 256;

/// What a page is to hold, with what it takes to read it without the log's lock.
#[derive(Debug)]
pub struct Plan {
    base: LogHead,
    head: LogHead,
    wanted: Range<u64>,
    pieces: Vec<Piece>,
}

/// Frames of one segment that are next to each other.
#[derive(Debug)]
struct Piece {
    segment: u64,
    file: File,
    cipher: Arc<Cipher>,
    index: u64,
    frames: Vec<Range<u64>>,
}

impl Log {
    /// The next records after number `after`, to be read.
    pub fn plan(&self, after: u64) -> Result<Plan, LogError> {
        let first = after.max(self.base.seq).saturating_add(1);
        let wanted = first..first.saturating_add(PAGE).min(self.head.seq + 1);
        let overlaps = |segment: &&Stored| segment.last >= wanted.start && segment.start.seq + 1 < wanted.end;
        let pieces = match wanted.is_empty() {
            true => Ok(Vec::new()),
            false => self.segments.iter().filter(overlaps).map(|s| self.piece(s, &wanted)).collect(),
        };
        Ok(Plan { base: self.base.clone(), head: self.head.clone(), pieces: pieces?, wanted })
    }

    fn piece(&self, segment: &Stored, wanted: &Range<u64>) -> Result<Piece, LogError> {
        let number = segment.start.number;
        let file = self.folder.get(number);
        let file = file.map_err(|source| LogError::File { path: format!("segment {number}"), source })?;
        let from = segment.frames.partition_point(|(first, _)| *first <= wanted.start).saturating_sub(1);
        let to = segment.frames.partition_point(|(first, _)| *first < wanted.end);
        let frames = segment.frames.get(from..to).unwrap_or_default();
        let frames = frames.iter().map(|(_, at)| at.clone()).collect();
        Ok(Piece { segment: number, file, cipher: Arc::clone(&segment.cipher), index: from as u64, frames })
    }

    /// The next records after number `after`, as [`Plan::read`] gives them.
    #[cfg(test)]
    pub(super) fn page(&self, after: u64) -> Result<LogPage, LogError> {
        Ok(serde_json::from_slice(&self.plan(after)?.read()?).unwrap())
    }
}

impl Plan {
    /// Reads the page: the JSON text of a [`LogPage`]. The records go into it as they are. They were written by this
    /// host as the text of a [`LogRecord`](host_api::LogRecord), and nobody else can seal a frame. A segment that is
    /// taken away meanwhile is still read.
    pub fn read(self) -> Result<Vec<u8>, LogError> {
        let mut text = BEGINNING.to_vec();
        for piece in &self.pieces {
            let broken = LogError::Broken { segment: piece.segment, seq: self.wanted.start };
            piece.read(&self.wanted, &mut text).ok_or(broken)?;
        }
        if text.last() == Some(&b',') {
            text.pop();
        }
        let rest = LogPage { records: Vec::new(), last: self.head.seq, base: self.base, head: self.head };
        let rest = serde_json::to_vec(&rest).unwrap_or_default();
        text.extend(rest.strip_prefix(BEGINNING).unwrap_or_default());
        Ok(text)
    }
}

impl Piece {
    fn read(&self, wanted: &Range<u64>, text: &mut Vec<u8>) -> Option<()> {
        let (from, to) = (self.frames.first()?.start, self.frames.last()?.end);
        let mut block = vec![0; usize::try_from(to - from).ok()?];
        self.file.read_exact_at(&mut block, from).ok()?;
        for (index, frame) in (self.index..).zip(&self.frames) {
            let at = usize::try_from(frame.start - from).ok()?..usize::try_from(frame.end - from).ok()?;
            let frame = self.cipher.open(index, at.start, block.get(at)?).ok()?;
            let lines = frame.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (_, line) in (frame.first..).zip(lines).filter(|(seq, _)| wanted.contains(seq)) {
                text.extend_from_slice(line);
                text.push(b',');
            }
        }
        Some(())
    }
}
