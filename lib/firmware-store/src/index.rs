//! The index: which blobs there are, with their keys, and the small secrets.

use crate::{
    Digest, Error, StoreKey,
    header::{Fault, HEADER, Header},
    sha256, take,
};
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"AZFINDEX";
/// Most images in a store.
pub const MAX_BLOBS: usize = 64;
/// Most small secrets.
pub const MAX_SECRETS: usize = 16;
/// Longest small secret in bytes.
pub const MAX_SECRET: usize = 4096;
const MAX_NAME: usize = 32;
/// Longest file of an index in bytes.
pub(crate) const MAX_INDEX: usize = 128 * 1024;

/// An image in the store.
#[derive(Clone)]
pub struct Blob {
    /// SHA-256 of its content.
    pub sha256: Digest,
    /// Length of its content in bytes.
    pub length: u64,
    /// SHA-256 of its file, whole: what [`crate::Folder::sum`] gives while nobody changed it.
    pub sum: Digest,
    pub(crate) key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("length", &self.length).finish_non_exhaustive()
    }
}

/// What is in the index.
#[derive(Clone, Default)]
pub(crate) struct Table {
    pub(crate) blobs: BTreeMap<Digest, Blob>,
    pub(crate) secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl Table {
    /// `None` if it is more than an index holds.
    pub(crate) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let within = self.blobs.len() <= MAX_BLOBS && self.secrets.len() <= MAX_SECRETS;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INDEX));
        bytes.push(u8::try_from(self.blobs.len()).ok().filter(|_| within)?);
        for blob in self.blobs.values() {
            bytes.extend_from_slice(&blob.sha256);
            bytes.extend_from_slice(&blob.length.to_be_bytes());
            bytes.extend_from_slice(&blob.sum);
            bytes.extend_from_slice(&*blob.key);
        }
        bytes.push(u8::try_from(self.secrets.len()).ok()?);
        for (name, secret) in &self.secrets {
            let fits = name.len() <= MAX_NAME && secret.len() <= MAX_SECRET;
            bytes.push(u8::try_from(name.len()).ok().filter(|_| fits)?);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&u16::try_from(secret.len()).ok()?.to_be_bytes());
            bytes.extend_from_slice(secret);
        }
        Some(bytes)
    }

    /// Reads what [`Table::encode`] writes, and only in the order in which it writes it.
    pub(crate) fn parse(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let mut table = Self::default();
        let [blobs] = *take(rest)?;
        for _ in 0..blobs {
            let (sha256, length) = (*take(rest)?, u64::from_be_bytes(*take(rest)?));
            let (sum, key) = (*take(rest)?, Zeroizing::new(*take(rest)?));
            let later = table.blobs.keys().next_back().is_none_or(|last| *last < sha256);
            let fits = later && table.blobs.len() < MAX_BLOBS;
            table.blobs.insert(sha256, fits.then_some(Blob { sha256, length, sum, key })?);
        }
        let [secrets] = *take(rest)?;
        for _ in 0..secrets {
            let [length] = *take(rest)?;
            let name =
                str::from_utf8(slice(rest, length.into())?).ok().filter(|name| name.len() <= MAX_NAME)?;
            let length = usize::from(u16::from_be_bytes(*take(rest)?));
            let secret = slice(rest, length).filter(|secret| secret.len() <= MAX_SECRET)?;
            let later = table.secrets.keys().next_back().is_none_or(|last| last.as_str() < name);
            let fits = later && table.secrets.len() < MAX_SECRETS;
            fits.then(|| table.secrets.insert(name.to_owned(), secret.to_vec().into()))?;
        }
        rest.is_empty().then_some(table)
    }
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// The file of an index.
pub(crate) fn seal(key: &StoreKey, table: &Table) -> Result<Vec<u8>, Error> {
    let mut random = Digest::default();
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::Cipher)?;
    let (cipher, check) = key.index(&random)?;
    let mut text = table.encode().ok_or(Error::Full)?;
    // The key is new with the random bytes, so the nonce need not be.
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let prefix = [random, check].concat();
    let tag =
        cipher.seal_in_place_separate_tag(nonce, Aad::from(&prefix), &mut text).map_err(|_| Error::Cipher)?;
    let body = [&prefix, &**text, tag.as_ref()].concat();
    let header = Header { length: body.len() as u64, sum: sha256(&body) };
    Ok([header.encode(MAGIC), body].concat())
}

/// Reads what [`seal`] gave.
pub(crate) fn open(key: &StoreKey, bytes: &[u8]) -> Result<Table, Error> {
    let mut rest = bytes;
    let header = Header::parse(MAGIC, &mut rest).map_err(|fault| match fault {
        Fault::Changed => Error::Index,
        Fault::Version(version) => Error::Version(version),
    })?;
    if header != (Header { length: rest.len() as u64, sum: sha256(rest) }) || bytes.len() > MAX_INDEX {
        return Err(Error::Index);
    }
    let (random, check) =
        (take::<32>(&mut rest).ok_or(Error::Index)?, take::<32>(&mut rest).ok_or(Error::Index)?);
    let (cipher, right) = key.index(random)?;
    if *check != right {
        return Err(Error::Closed);
    }
    let prefix = [*random, *check].concat();
    let mut text = Zeroizing::new(rest.to_vec());
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let plain = cipher.open_in_place(nonce, Aad::from(&prefix), &mut text).map_err(|_| Error::Index)?;
    Table::parse(plain).ok_or(Error::Index)
}

const _: () = assert!(
    HEADER + 64 + 16 + 2 + MAX_BLOBS * 104 + MAX_SECRETS * (3 + MAX_NAME + MAX_SECRET) <= MAX_INDEX,
    "the largest table fits"
);
