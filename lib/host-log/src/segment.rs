//! Whole segments.

use crate::{
    Batch, Fault, Frame, HEADER, LogKey, MAX_FRAME, Start,
    frame::{self, FRONT},
    header,
};
use aws_lc_rs::aead::LessSafeKey;
use std::{fmt, ops::Range, sync::Arc};

/// Storage writes sectors of this many bytes whole or not at all.
const SECTOR: usize = 512;
/// Ciphertext has no run of zeros as long as this.
const RUN: usize = 32;

/// What opens frames of one segment.
pub struct Cipher(LessSafeKey);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// Opens frame number `index`, which is all of `bytes`, and is at `start` in its segment.
    pub fn open(&self, index: u64, start: usize, bytes: &[u8]) -> Result<Frame, Fault> {
        frame::open(&self.0, index, start, bytes).ok_or(Fault::Frame(index))
    }
}

/// Makes one segment, frame after frame.
#[derive(Debug)]
pub struct Sealer {
    cipher: Arc<Cipher>,
    frames: u64,
}

impl Sealer {
    /// Begins a segment; gives its header, which must be written first.
    pub fn new(key: &LogKey, start: &Start) -> Result<(Self, [u8; HEADER]), Fault> {
        let (header, cipher) = header::make(key, start)?;
        Ok((Self { cipher: Arc::new(Cipher(cipher)), frames: 0 }, header))
    }

    /// Seals the next frame. It counts whether or not it is ever written.
    pub fn seal(&mut self, batch: &Batch<'_>) -> Result<Vec<u8>, Fault> {
        let index = self.frames;
        self.frames += 1;
        frame::seal(&self.cipher.0, index, batch)
    }

    /// What opens its frames.
    pub fn cipher(&self) -> Arc<Cipher> {
        Arc::clone(&self.cipher)
    }
}

/// A segment as it was read.
#[derive(Debug)]
pub struct Segment {
    /// What it begins with.
    pub start: Start,
    /// Opens its frames again.
    pub cipher: Arc<Cipher>,
    /// Its whole frames.
    pub frames: Vec<Frame>,
    /// Length of all that is whole, in bytes. What was [`written`] behind it is the beginning of a write that a power
    /// cut ended, and was never reported as durable.
    pub whole: usize,
}

/// Length of what was written of a segment, in bytes: zeros at its end are room.
pub fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Reads a segment; `None` if not even its header was finished.
///
/// Zeros at the end are room for more frames. Unfinished is what a power cut can leave of the last write: fewer bytes
/// than were to come, or as many with sectors of zeros. Anything else is a [`Fault`]. Who can write to the disk can cut
/// it there too, which only one who remembers a later record can tell.
pub fn read(key: &LogKey, bytes: &[u8]) -> Result<Option<Segment>, Fault> {
    let written = written(bytes);
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>().filter(|_| written > 0) else {
        return Ok(None);
    };
    let (start, cipher) = match header::parse(key, header) {
        Err(Fault::Header) if written <= HEADER + MAX_FRAME && has_hole(bytes, 0..written) => {
            return Ok(None);
        }
        parsed => parsed?,
    };
    let cipher = Arc::new(Cipher(cipher));
    let mut segment = Segment { start, cipher, frames: Vec::new(), whole: HEADER };
    while segment.whole < written {
        let (from, index) = (segment.whole, segment.frames.len() as u64);
        let rest = bytes.get(from..).unwrap_or_default();
        let Some((front, _)) = rest.split_first_chunk::<FRONT>() else { break };
        let torn = match frame::front(front) {
            Some(front) => match rest.get(..front.length) {
                Some(whole) => match segment.cipher.open(index, from, whole) {
                    Ok(frame) => {
                        segment.whole = frame.at.end;
                        segment.frames.push(frame);
                        continue;
                    }
                    Err(_) => written <= from + front.length && has_hole(bytes, from..from + front.length),
                },
                None => true,
            },
            None => {
                // The front may lie in two sectors, of which only the first was written.
                let end = written.max(from + FRONT).next_multiple_of(SECTOR).min(bytes.len());
                written - from <= MAX_FRAME && has_hole(bytes, from..end)
            }
        };
        if torn {
            break;
        }
        return Err(Fault::Frame(index));
    }
    Ok(Some(segment))
}

/// Whether a sector, as far as it lies in `range`, was not written.
fn has_hole(bytes: &[u8], range: Range<usize>) -> bool {
    let mut from = range.start;
    while from < range.end {
        let to = (from / SECTOR * SECTOR + SECTOR).min(range.end);
        let piece = bytes.get(from..to).unwrap_or_default();
        if piece.len() >= RUN && piece.iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

#[cfg(test)]
mod tests;
