//! Frames.

use crate::Fault;
use aws_lc_rs::{
    aead::{Aad, LessSafeKey, NONCE_LEN, Nonce},
    digest::{SHA256, digest},
};
use std::ops::Range;

/// Bytes before the ciphertext.
pub(crate) const FRONT: usize = 4 + 8 + 8 + 4;
const SIGNATURE: usize = 64;
const TAG: usize = 16;
/// What a frame costs beside its lines, in bytes.
const AROUND: usize = FRONT + SIGNATURE + 8 + TAG;
/// Most bytes of lines in one frame.
pub const MAX_LINES: usize = 256 * 1024;
/// Longest frame in bytes.
pub const MAX_FRAME: usize = MAX_LINES + AROUND;

/// Records that become durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Sequence number of the first.
    pub first: u64,
    /// Sequence number of the last.
    pub last: u64,
    /// The host's signature over the last one's number and hash.
    pub signature: [u8; SIGNATURE],
    /// Up to which record the log was acknowledged.
    pub acknowledged: u64,
    /// The records, each with a line feed.
    pub lines: &'a [u8],
}

impl Batch<'_> {
    /// Bytes of the frame that has so many bytes of lines.
    pub const fn length(lines: usize) -> usize {
        AROUND + lines
    }
}

/// A batch as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where in the segment it is.
    pub at: Range<usize>,
    /// Sequence number of the first record.
    pub first: u64,
    /// Sequence number of the last record.
    pub last: u64,
    /// The host's signature over the last one's number and hash.
    pub signature: [u8; SIGNATURE],
    /// Up to which record the log was acknowledged.
    pub acknowledged: u64,
    /// The records, each with a line feed.
    pub lines: Vec<u8>,
}

pub(crate) fn seal(cipher: &LessSafeKey, index: u64, batch: &Batch<'_>) -> Result<Vec<u8>, Fault> {
    if batch.lines.len() > MAX_LINES {
        return Err(Fault::Cipher);
    }
    let inside = SIGNATURE + 8 + batch.lines.len();
    let length = u32::try_from(inside + TAG).map_err(|_| Fault::Cipher)?;
    let front = [&length.to_be_bytes()[..], &batch.first.to_be_bytes(), &batch.last.to_be_bytes()].concat();
    let mut frame = [&front[..], &check(&front)].concat();
    let mut inside = [&batch.signature[..], &batch.acknowledged.to_be_bytes(), batch.lines].concat();
    cipher
        .seal_in_place_append_tag(nonce(index), Aad::from(&frame), &mut inside)
        .map_err(|_| Fault::Cipher)?;
    frame.extend(inside);
    Ok(frame)
}

/// What the plain front of a frame says.
pub(crate) struct Front {
    /// Bytes of the whole frame.
    pub(crate) length: usize,
    first: u64,
    last: u64,
}

/// Reads a frame's front, if it is one.
pub(crate) fn front(bytes: &[u8; FRONT]) -> Option<Front> {
    let (fields, sum) = bytes.split_last_chunk::<4>()?;
    let (length, rest) = fields.split_first_chunk()?;
    let (first, last) = rest.split_first_chunk()?;
    let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last.first_chunk()?));
    let length = FRONT + usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let sound = check(fields) == *sum && (AROUND..=MAX_FRAME).contains(&length) && first <= last;
    sound.then_some(Front { length, first, last })
}

/// Opens frame number `index`, which is all of `bytes` and is at `start` in its segment.
pub(crate) fn open(cipher: &LessSafeKey, index: u64, start: usize, bytes: &[u8]) -> Option<Frame> {
    let (aad, sealed) = bytes.split_first_chunk::<FRONT>()?;
    let Front { length, first, last } = front(aad)?;
    let mut inside = (length == bytes.len()).then(|| sealed.to_vec())?;
    let plain = cipher.open_in_place(nonce(index), Aad::from(aad), &mut inside).ok()?;
    let (signature, rest) = plain.split_first_chunk()?;
    let (acknowledged, lines) = rest.split_first_chunk()?;
    let acknowledged = u64::from_be_bytes(*acknowledged);
    let at = start..start + length;
    Some(Frame { at, first, last, signature: *signature, acknowledged, lines: lines.to_vec() })
}

/// The frame's number: no two frames of a segment have the same, and no two segments the same key.
fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce.iter_mut().rev().zip(index.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(nonce)
}

fn check(fields: &[u8]) -> [u8; 4] {
    let mut check = [0; 4];
    check.iter_mut().zip(digest(&SHA256, fields).as_ref()).for_each(|(to, from)| *to = *from);
    check
}
