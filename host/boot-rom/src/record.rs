//! The identity record of a host, written once into TPM NV at enrolment and locked for good. All numbers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `AZHOST01` |
//! | 1 | environment: 1 production, 2 non-production |
//! | 19 | host id, `h-` and 17 hexadecimal digits |
//! | 8 | base of the floor: what the counter held at enrolment |
//!
//! The floor under security versions is the counter at [`FLOOR_INDEX`] less that base.

use crate::{Environment, take};

/// NV index of the record.
pub const RECORD_INDEX: u32 = 0x0180_0A00;
/// NV index of the counter that holds the floor.
pub const FLOOR_INDEX: u32 = 0x0180_0A01;
/// Bytes of a record.
pub const RECORD: usize = 36;
const MAGIC: [u8; 8] = *b"AZHOST01";

/// What a host is, for as long as it is not reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Which images it takes.
    pub environment: Environment,
    /// Its name, UTF-8.
    pub host: [u8; 19],
    /// The counter at enrolment.
    pub floor_base: u64,
}

impl Record {
    /// Reads a record; `None` unless it is written as [`Record::write`] writes it.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        if take(bytes)? != MAGIC {
            return None;
        }
        let [environment] = take(bytes)?;
        let record = Self {
            environment: Environment::from_byte(environment)?,
            host: take(bytes)?,
            floor_base: u64::from_be_bytes(take(bytes)?),
        };
        let digits = record.host.strip_prefix(b"h-")?;
        let hexadecimal = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (hexadecimal && bytes.is_empty()).then_some(record)
    }

    /// The bytes of the record.
    pub fn write(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let fields: [&[u8]; 4] =
            [&MAGIC, &[self.environment.byte()], &self.host, &self.floor_base.to_be_bytes()];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        core::str::from_utf8(&self.host).unwrap_or_default()
    }

    /// The floor, when the counter holds `counter`; `None` if it never could.
    pub fn floor(&self, counter: u64) -> Option<u32> {
        counter.checked_sub(self.floor_base)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record { environment: Environment::Production, host: *b"h-0123456789abcdef0", floor_base: 7 }
    }

    #[test]
    fn a_record_is_36_bytes_of_fixed_layout() {
        let bytes = record().write();
        assert_eq!(&bytes[..], b"AZHOST01\x01h-0123456789abcdef0\0\0\0\0\0\0\0\x07");
        assert_eq!(Record::parse(&bytes), Some(record()));
        assert_eq!(Record::parse(&bytes[..RECORD - 1]), None);
        for (at, value) in [(0, 0), (8, 0), (8, 3), (9, b'H'), (11, b'G')] {
            let mut bad = bytes;
            bad[at] = value;
            assert_eq!(Record::parse(&bad), None, "{at}");
        }
    }

    #[test]
    fn the_floor_counts_from_enrolment() {
        assert_eq!((record().floor(7), record().floor(9)), (Some(0), Some(2)));
        assert_eq!((record().floor(6), record().floor(u64::MAX)), (None, None));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(environment in any::<u8>(), host in "h-[0-9a-f]{17}", base in any::<u64>()) {
            let mut bytes = record().write();
            bytes[8] = environment;
            bytes[9..28].copy_from_slice(host.as_bytes());
            bytes[28..].copy_from_slice(&base.to_be_bytes());
            let read = Record::parse(&bytes);
            prop_assert_eq!(read.is_some(), environment == 1 || environment == 2);
            prop_assert!(read.is_none_or(|record| record.write() == bytes));
        }
    }
}
