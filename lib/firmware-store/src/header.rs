//! The plain header of both kinds of file.

use crate::{Digest, take};

const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("firmware-store ", env!("CARGO_PKG_VERSION")).as_bytes();
const PRODUCER_LENGTH: usize = 16;
/// Its length in bytes.
pub(crate) const HEADER: usize = 8 + 2 + PRODUCER_LENGTH + 8 + 32;

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes that follow.
    pub(crate) length: u64,
    /// Their SHA-256.
    pub(crate) sum: Digest,
}

/// Why bytes are no header of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Something else.
    Changed,
    /// A later release made it.
    Version(u16),
}

impl Header {
    pub(crate) fn encode(&self, magic: &[u8; 8]) -> Vec<u8> {
        let mut producer = [0; PRODUCER_LENGTH];
        producer.iter_mut().zip(PRODUCER).for_each(|(to, from)| *to = *from);
        let fields: [&[u8]; 5] =
            [magic, &VERSION.to_be_bytes(), &producer, &self.length.to_be_bytes(), &self.sum];
        fields.concat()
    }

    /// Takes a header off the front of `rest`.
    pub(crate) fn parse(magic: &[u8; 8], rest: &mut &[u8]) -> Result<Self, Fault> {
        let mut read = || -> Option<_> {
            let (found, version) = (take::<8>(rest)?, take(rest)?);
            let _producer = take::<PRODUCER_LENGTH>(rest)?;
            Some((found, u16::from_be_bytes(*version), u64::from_be_bytes(*take(rest)?), *take(rest)?))
        };
        match read() {
            Some((found, VERSION, length, sum)) if found == magic => Ok(Self { length, sum }),
            Some((found, version, ..)) if found == magic && version > VERSION => Err(Fault::Version(version)),
            _ => Err(Fault::Changed),
        }
    }
}
