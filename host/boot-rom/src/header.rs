//! The header in front of stage 1's image, signed by the root key. All numbers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `AZSTAGE1` |
//! | 2 | format, 1 |
//! | 16 | producer, UTF-8 padded with zeros |
//! | 1 | environment: 1 production, 2 non-production |
//! | 4 | security version |
//! | 32 | version, UTF-8 padded with zeros |
//! | 8 | length of the image in bytes |
//! | 32 | SHA-256 of the image |
//! | 32 | root public key, Ed25519 (RFC 8032) |
//! | 64 | signature over [`CONTEXT`] and everything before it |

use crate::{Digest, Environment, Refusal, take};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Bytes of a header.
pub const HEADER: usize = SIGNED + 64;
/// Bytes of a header that are signed.
pub const SIGNED: usize = 8 + 2 + 16 + 1 + 4 + 32 + 8 + 32 + 32;
/// What is signed begins with this, so that no signature made for anything else fits.
pub const CONTEXT: &[u8] = b"azote/stage-1/1";
/// Most bytes of an image.
pub const MAX_IMAGE: u64 = 256 << 20;
/// Where stage 1 finds its verified header.
pub const DESCRIPTOR: i32 = 4;

const MAGIC: [u8; 8] = *b"AZSTAGE1";
const FORMAT: u16 = 1;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who made it, at most 16 bytes.
    pub producer: [u8; 16],
    /// What it is for.
    pub environment: Environment,
    /// Grows when an older one must not run any more.
    pub svn: u32,
    /// For people, at most 32 bytes.
    pub version: [u8; 32],
    /// Bytes of the image.
    pub length: u64,
    /// SHA-256 of the image.
    pub sha256: Digest,
    /// The key that signs.
    pub root_key: [u8; 32],
}

impl Header {
    /// Reads a header and verifies its signature. `root_key_sha256` is what the fuse holds.
    pub fn verify(bytes: &[u8; HEADER], root_key_sha256: &Digest) -> Result<Self, Refusal> {
        let (signed, signature) = bytes.split_first_chunk::<SIGNED>().ok_or(Refusal::Header)?;
        let header = Self::parse(signed).ok_or(Refusal::Header)?;
        if sha256(&[&header.root_key]) != *root_key_sha256 {
            return Err(Refusal::RootKey);
        }
        let key = VerifyingKey::from_bytes(&header.root_key).map_err(|_| Refusal::RootKey)?;
        let signature = Signature::from_slice(signature).map_err(|_| Refusal::Signature)?;
        let mut message = [0; CONTEXT.len() + SIGNED];
        let (context, rest) = message.split_at_mut(CONTEXT.len());
        context.copy_from_slice(CONTEXT);
        rest.copy_from_slice(signed);
        // Strict: no keys of small order, no signature that can be changed into another one.
        key.verify_strict(&message, &signature).map_err(|_| Refusal::Signature)?;
        Ok(header)
    }

    /// Reads the signed part; `None` unless it is written as [`Header::write`] writes it.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        if take(bytes)? != MAGIC || u16::from_be_bytes(take(bytes)?) != FORMAT {
            return None;
        }
        let producer = take(bytes)?;
        let [environment] = take(bytes)?;
        let header = Self {
            producer,
            environment: Environment::from_byte(environment)?,
            svn: u32::from_be_bytes(take(bytes)?),
            version: take(bytes)?,
            length: u64::from_be_bytes(take(bytes)?),
            sha256: take(bytes)?,
            root_key: take(bytes)?,
        };
        let proper = crate::text(&header.producer).is_some()
            && crate::text(&header.version).is_some()
            && (1..=MAX_IMAGE).contains(&header.length);
        (proper && bytes.is_empty()).then_some(header)
    }

    /// The signed part.
    pub fn write(&self) -> [u8; SIGNED] {
        let mut bytes = [0; SIGNED];
        let mut rest = &mut bytes[..];
        let fields: [&[u8]; 9] = [
            &MAGIC,
            &FORMAT.to_be_bytes(),
            &self.producer,
            &[self.environment.byte()],
            &self.svn.to_be_bytes(),
            &self.version,
            &self.length.to_be_bytes(),
            &self.sha256,
            &self.root_key,
        ];
        for field in fields {
            let Some((head, tail)) = rest.split_at_mut_checked(field.len()) else { break };
            head.copy_from_slice(field);
            rest = tail;
        }
        bytes
    }

    /// The version, for people.
    pub fn version(&self) -> &str {
        crate::text(&self.version).unwrap_or_default()
    }
}

/// A text as a field of a header; `None` if it is empty, too long or holds control characters.
pub fn field<const N: usize>(text: &str) -> Option<[u8; N]> {
    crate::field(text)
}

/// SHA-256 over `parts`, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn header() -> Header {
        Header {
            producer: field("azote").unwrap(),
            environment: Environment::Production,
            svn: 3,
            version: field("1.2.3").unwrap(),
            length: 5,
            sha256: sha256(&[b"image"]),
            root_key: key().verifying_key().to_bytes(),
        }
    }

    fn signed(header: &Header, context: &[u8]) -> [u8; HEADER] {
        let bytes = header.write();
        let signature = key().sign(&[context, &bytes].concat()).to_bytes();
        [&bytes[..], &signature].concat().try_into().unwrap()
    }

    fn fuse() -> Digest {
        sha256(&[&header().root_key])
    }

    #[test]
    fn a_header_that_the_root_key_signed_is_read() {
        let bytes = signed(&header(), CONTEXT);
        assert_eq!((bytes.len(), &bytes[..10]), (199, &b"AZSTAGE1\0\x01"[..]));
        assert_eq!(Header::verify(&bytes, &fuse()), Ok(header()));
        assert_eq!(header().version(), "1.2.3");
    }

    #[test]
    fn every_changed_bit_is_refused() {
        let good = signed(&header(), CONTEXT);
        for at in 0..HEADER * 8 {
            let mut bad = good;
            bad[at / 8] ^= 1 << (at % 8);
            let refusal = Header::verify(&bad, &fuse()).unwrap_err();
            let key = SIGNED - 32..SIGNED;
            assert_eq!(refusal == Refusal::RootKey, key.contains(&(at / 8)), "bit {at}: {refusal:?}");
        }
    }

    #[test]
    fn a_signature_for_something_else_is_refused() {
        let other = signed(&header(), b"azote/stage-2/1");
        assert_eq!(Header::verify(&other, &fuse()), Err(Refusal::Signature));
    }

    #[test]
    fn the_fuse_decides_whose_signature_counts() {
        assert_eq!(Header::verify(&signed(&header(), CONTEXT), &[1; 32]), Err(Refusal::RootKey));
        // The identity point: anybody signs for it with (identity, 0). The fuse of such a board would be a mistake.
        let mut weak = Header { root_key: [0; 32], ..header() };
        weak.root_key[0] = 1;
        let mut bytes = signed(&weak, CONTEXT);
        bytes[SIGNED..].fill(0);
        bytes[SIGNED] = 1;
        assert_eq!(Header::verify(&bytes, &sha256(&[&weak.root_key])), Err(Refusal::Signature));
    }

    #[test]
    fn fields_have_bounds() {
        for length in [0, MAX_IMAGE + 1, u64::MAX] {
            assert_eq!(Header::parse(&Header { length, ..header() }.write()), None);
        }
        let empty = Header { version: [0; 32], ..header() };
        assert_eq!(Header::parse(&empty.write()), None);
        assert_eq!(field::<4>("12345"), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(at in 0..SIGNED, value in any::<u8>()) {
            let mut bytes = header().write();
            bytes[at] = value;
            if let Some(read) = Header::parse(&bytes) {
                prop_assert_eq!(read.write(), bytes);
            }
        }
    }
}
