//! What a host's log is at rest: segments, each a plain header that stays readable for ever, and frames encrypted
//! with AES-256-GCM, one for each batch of records that became durable together. This crate does no I/O and
//! knows nothing of what a record says; it stands on the boundary between a host and whoever holds its disk,
//! so every byte that it reads is hostile.
//!
//! A segment's key is derived (HKDF-SHA256, RFC 5869) from the host's log key and from the segment's header, in
//! which there are 32 random bytes; a frame's nonce is its number in the segment. Only a [`Sealer`] makes
//! frames, each makes a segment of its own, and it cannot be made from one that exists: so no nonce is used
//! twice under one key, also not after a crash, a cut, or when an older file was put back.
//!
//! Header, all numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `AZHSTLOG` |
//! | 2 | format version, 1 |
//! | 16 | producer, text, zero-padded |
//! | 4 | length of what follows the checksum |
//! | 32 | SHA-256 of all other bytes of the header |
//! | 8 | number of the segment, from 1 |
//! | 8 + 32 + 64 | sequence number and hash of the last record before this segment, and the host's signature over them |
//! | 32 | random |
//! | 32 | check of the log key: tells a wrong key from a changed segment |
//!
//! Frame:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the ciphertext with its tag |
//! | 8, 8 | sequence numbers of its first and its last record |
//! | 4 | first bytes of the SHA-256 of the 20 before: tells a torn frame from a changed one |
//! | 64 + 8 + n | encrypted: the host's signature over the last record's number and hash; up to which record the log was acknowledged; the records, a line each |
//! | 16 | tag, over the frame's first 24 bytes too |
//!
//! Zeros after the last frame are room that was made beforehand.
#![forbid(unsafe_code)]

mod frame;
mod header;
mod segment;

pub use frame::{Batch, Frame, MAX_FRAME, MAX_LINES};
pub use header::{HEADER, LogKey, Start};
pub use segment::{Cipher, Sealer, Segment, read, written};

/// Why bytes are not a segment of this log. What is only unfinished is no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The header was changed, or this is something else.
    #[error("this is no segment of a host's log, or its header was changed")]
    Header,
    /// A later release made it.
    #[error("format version {0} is newer than this program: use the one that wrote it")]
    Version(u16),
    /// It was made under another log key.
    #[error("the segment was written with another log key")]
    Key,
    /// Frame number so much, from 0, is not what was written.
    #[error("frame {0} was changed, moved or taken out")]
    Frame(u64),
    /// The cryptographic library failed, or a batch is longer than a frame can be.
    #[error("a frame cannot be made")]
    Cipher,
}
