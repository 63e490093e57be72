//! A blob: one image under a key of its own.

use crate::{
    Error, MAX_IMAGE,
    header::{Fault, HEADER, Header},
    index::Blob,
    sha256, take,
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{Context, SHA256},
};
use std::io::{self, Read};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"AZFBLOB1";
const CHUNK: usize = 1 << 20;
const TAG: usize = 16;
const PREFIX: usize = 32 + 8;
/// Longest file of a blob in bytes.
pub(crate) const MAX_FILE: u64 = file_length(MAX_IMAGE);

/// Length of the file of a blob whose content is so long.
const fn file_length(content: u64) -> u64 {
    (HEADER + PREFIX) as u64 + content + content.div_ceil(CHUNK as u64) * TAG as u64
}

/// Encrypts an image under a new key; gives its entry for the index and its file.
pub(crate) fn seal(content: &[u8]) -> Result<(Blob, Vec<u8>), Error> {
    let length = content.len() as u64;
    if length > MAX_IMAGE {
        return Err(Error::Full);
    }
    let mut key = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| Error::Cipher)?;
    let (cipher, digest) = (cipher(&key)?, sha256(content));
    let prefix = [&digest[..], &length.to_be_bytes()].concat();
    let mut body = Vec::with_capacity(usize::try_from(file_length(length)).unwrap_or_default());
    body.extend_from_slice(&prefix);
    for (number, chunk) in content.chunks(CHUNK).enumerate() {
        let mut sealed = Zeroizing::new(chunk.to_vec());
        let tag = cipher
            .seal_in_place_separate_tag(nonce(number), Aad::from(&prefix), &mut sealed)
            .map_err(|_| Error::Cipher)?;
        body.extend_from_slice(&sealed);
        body.extend_from_slice(tag.as_ref());
    }
    let header = Header { length: body.len() as u64, sum: sha256(&body) };
    let file = [header.encode(MAGIC), body].concat();
    Ok((Blob { sha256: digest, length, sum: sha256(&file), key }, file))
}

/// Decrypts a blob chunk by chunk. What `into` got is the image only once this has returned.
pub(crate) fn open(
    blob: &Blob,
    file: &mut impl Read,
    mut into: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let changed = || Error::Blob(blob.sha256);
    let mut front = [0; HEADER + PREFIX];
    file.read_exact(&mut front).map_err(|error| short(error, blob))?;
    let rest = &mut &front[..];
    let header = Header::parse(MAGIC, rest).map_err(|fault| match fault {
        Fault::Changed => changed(),
        Fault::Version(version) => Error::Version(version),
    })?;
    let prefix = *take::<PREFIX>(rest).ok_or_else(changed)?;
    let expected = [&blob.sha256[..], &blob.length.to_be_bytes()].concat();
    let whole = blob.length <= MAX_IMAGE && header.length == file_length(blob.length) - HEADER as u64;
    if prefix[..] != expected[..] || !whole {
        return Err(changed());
    }
    let (cipher, mut context, mut left) = (cipher(&blob.key)?, Context::new(&SHA256), blob.length);
    for number in 0.. {
        let next = left.min(CHUNK as u64);
        if next == 0 {
            break;
        }
        let mut chunk = Zeroizing::new(vec![0; usize::try_from(next).unwrap_or(CHUNK) + TAG]);
        file.read_exact(&mut chunk).map_err(|error| short(error, blob))?;
        let plain =
            cipher.open_in_place(nonce(number), Aad::from(&prefix), &mut chunk).map_err(|_| changed())?;
        context.update(plain);
        into(plain)?;
        left -= next;
    }
    let end = file.read(&mut [0])? == 0;
    (end && context.finish().as_ref() == blob.sha256).then_some(()).ok_or_else(changed)
}

fn short(error: io::Error, blob: &Blob) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Blob(blob.sha256),
        _ => error.into(),
    }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::Cipher)?))
}

/// A blob's key encrypts its chunks once each.
fn nonce(number: usize) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce.iter_mut().rev().zip((number as u64).to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(nonce)
}
