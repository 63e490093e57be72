//! What the boot ROM decides, as pure functions: whether stage 1 may run, from the fuse, stage 1's header and
//! what the TPM remembers. Also the formats that one stage of a start hands to the next. It reads no file and
//! starts nothing: the program `azote-boot-rom` does. No heap, no standard library.
//!
//! The boundary is the root of trust itself: everything but the fuse is hostile input, stage 1 and what the TPM
//! answers included.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod arguments;
pub mod decision;
pub mod events;
pub mod fuse;
pub mod header;
pub mod program;
pub mod record;
pub mod refusal;
pub mod report;
pub mod tpm;

pub use refusal::Refusal;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// What a component is for. A component never passes from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Serves customers.
    Production,
    /// Development, test and the lab.
    NonProduction,
}

impl Environment {
    /// From its byte in the formats of this crate.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Production),
            2 => Some(Self::NonProduction),
            _ => None,
        }
    }

    /// Its byte in the formats of this crate.
    pub fn byte(self) -> u8 {
        match self {
            Self::Production => 1,
            Self::NonProduction => 2,
        }
    }
}

/// `N` bytes at the start of `bytes`, and the rest.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// Text in a field of fixed length: UTF-8 without control characters, then zeros to the end.
pub(crate) fn text(field: &[u8]) -> Option<&str> {
    let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (text, padding) = field.split_at_checked(length)?;
    let text = core::str::from_utf8(text).ok()?;
    let proper =
        padding.iter().all(|byte| *byte == 0) && !text.is_empty() && !text.chars().any(char::is_control);
    proper.then_some(text)
}

/// A field of fixed length with `text` in it, if it fits.
pub(crate) fn field<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut field = [0; N];
    field.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    self::text(&field).is_some_and(|read| read == text).then_some(field)
}
