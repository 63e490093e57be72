//! A host's firmware at rest, "the encrypted SSD": images found by the SHA-256 of their content, and the few secrets
//! that only a host with an open store may use. It knows no release and verifies no signature: who puts an image in
//! has checked its manifest, and who takes one out names it by the hash that a signed manifest gives. It stands on
//! the boundary between a host and whoever holds its disk, so every byte that it reads is hostile.
//!
//! A folder holds the file `index` and a file `<sha256>.blob` for each image. Every image has a random key of its own,
//! used for nothing else; the keys are in the index, which is encrypted under the [`StoreKey`]. A change
//! ([`Change`]) writes new blobs first and replaces the index by one rename: a power cut at any byte leaves the old
//! store or the new one, and what it left over goes with the next change. What a blob's file is as a whole can be told
//! without any key ([`Folder::sum`]), so a changed byte is found before anything is decrypted.
//!
//! Both files begin with a plain header that stays readable for ever, all numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `AZFINDEX` or `AZFBLOB1` |
//! | 2 | format version, 1 |
//! | 16 | producer, text, zero-padded |
//! | 8 | length of what follows the checksum |
//! | 32 | SHA-256 of what follows |
//!
//! Index: 32 random bytes, from which and the store key its own key is derived (HKDF-SHA256, RFC 5869); 32 bytes that
//! tell a wrong store key from a changed index; AES-256-GCM over the table, with all bytes before as additional data.
//! Blob: SHA-256 of the content (32) and its length (8); then the content in chunks of 1 MiB, each AES-256-GCM under
//! the blob's key with its number as nonce and hash and length as additional data.
#![forbid(unsafe_code)]

mod blob;
mod folder;
mod header;
mod index;
mod key;
mod memory;
mod store;
#[cfg(test)]
mod tests;

pub use folder::{Disk, Folder};
pub use index::{Blob, MAX_BLOBS, MAX_SECRET, MAX_SECRETS};
pub use key::{REMOVABLE, StoreKey};
pub use store::{Change, Store};

/// Longest image in bytes.
pub const MAX_IMAGE: u64 = 512 * 1024 * 1024;

/// SHA-256.
pub type Digest = [u8; 32];

/// Why the store does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is not this store's.
    #[error("the firmware store does not open with this key: it is another host's, or was sealed anew")]
    Closed,
    /// The index was changed, or is none.
    #[error("the firmware store's index is changed or missing: install the host's firmware anew")]
    Index,
    /// A later release made it.
    #[error("the firmware store has format version {0}: start the release that wrote it, or a later one")]
    Version(u16),
    /// A blob was changed, taken away or put in another's place.
    #[error("blob {} of the firmware store is changed or missing: install the host's firmware anew", hex(.0))]
    Blob(Digest),
    /// The store has no such image.
    #[error("the firmware store has no image {}: install a release that has it", hex(.0))]
    Image(Digest),
    /// No room: on the disk, or by the bounds of this crate.
    #[error("the firmware store is full: nothing was changed")]
    Full,
    /// Another process changes it.
    #[error("the firmware store is in use: end the other process of this host first")]
    InUse,
    /// The removable half of the key.
    #[error("the security key is missing or has no {REMOVABLE} bytes: put it in, and give its file")]
    SecurityKey,
    /// The folder.
    #[error("the firmware store: {0}")]
    File(#[from] std::io::Error),
    /// No random bytes, or the cryptographic library failed.
    #[error("the firmware store cannot encrypt")]
    Cipher,
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "store.closed",
            Self::Index => "store.index",
            Self::Version(_) => "store.version",
            Self::Blob(_) => "store.blob",
            Self::Image(_) => "store.image",
            Self::Full => "store.full",
            Self::InUse => "store.in-use",
            Self::SecurityKey => "store.security-key",
            Self::File(_) | Self::Cipher => "store.failed",
        }
    }
}

/// SHA-256 of `bytes`.
fn sha256(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the next bytes of fixed length.
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(taken)
}

/// What a fuzzer calls: reading hostile bytes, without a disk.
#[doc(hidden)]
pub mod hostile {
    use crate::{Digest, Error, StoreKey, blob, index};

    /// Opens an index under a key that no attacker has.
    pub fn index(bytes: &[u8]) -> Result<(), Error> {
        index::open(&StoreKey::derive(b"a secret", None), bytes).map(drop)
    }

    /// Reads an index's table as it is once it was decrypted, and writes it again.
    pub fn table(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(index::Table::parse(bytes)?.encode()?.to_vec())
    }

    /// Opens a blob as one of so many bytes.
    pub fn blob(bytes: &[u8], sha256: Digest, length: u64) -> Result<(), Error> {
        let entry = index::Blob { sha256, length, sum: crate::sha256(bytes), key: [7; 32].into() };
        blob::open(&entry, &mut &*bytes, |_| Ok(()))
    }
}
