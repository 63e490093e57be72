//! The header, and what is derived from it.

use crate::Fault;
use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    digest::{Context, SHA256},
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"AZHSTLOG";
const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("host-log ", env!("CARGO_PKG_VERSION")).as_bytes();
const PRODUCER_LENGTH: usize = 16;
const KEY: usize = 32;
const RANDOM: usize = 32;
/// Bytes before the checksum, and after it.
const FRONT: usize = 8 + 2 + PRODUCER_LENGTH + 4;
const BODY: usize = 8 + 8 + 32 + 64 + RANDOM + KEY;
/// Length of a header in bytes.
pub const HEADER: usize = FRONT + 32 + BODY;

/// The host's log key: 256 bits that the TPM seals. Wiped when it is dropped.
#[derive(Clone)]
pub struct LogKey(Zeroizing<[u8; KEY]>);

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogKey")
    }
}

impl LogKey {
    /// Length in bytes.
    pub const LENGTH: usize = KEY;

    /// A key of 32 bytes; `None` for another length.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; KEY] = bytes.try_into().ok()?;
        let mut key = Zeroizing::new([0; KEY]);
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    fn derive(&self, random: &[u8; RANDOM]) -> Prk {
        Salt::new(HKDF_SHA256, random).extract(&*self.0)
    }
}

/// What a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Number of the segment, from 1 without gaps.
    pub number: u64,
    /// Sequence number of the last record before it; 0 if there was none.
    pub seq: u64,
    /// That record's hash; zeros if there was none.
    pub hash: [u8; 32],
    /// The host's signature over both.
    pub signature: [u8; 64],
}

/// Makes a header with new random bytes, and the key of its segment.
pub(crate) fn make(key: &LogKey, start: &Start) -> Result<([u8; HEADER], LessSafeKey), Fault> {
    let mut random = [0; RANDOM];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Fault::Cipher)?;
    let derived = key.derive(&random);
    let mut header = [0; HEADER];
    let mut producer = [0; PRODUCER_LENGTH];
    producer.iter_mut().zip(PRODUCER).for_each(|(to, from)| *to = *from);
    let fields: [&[u8]; 11] = [
        MAGIC,
        &VERSION.to_be_bytes(),
        &producer,
        &u32::try_from(BODY).unwrap_or(u32::MAX).to_be_bytes(),
        &[0; 32],
        &start.number.to_be_bytes(),
        &start.seq.to_be_bytes(),
        &start.hash,
        &start.signature,
        &random,
        &check(&derived)?,
    ];
    header.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
    let sum = checksum(&header);
    header.iter_mut().skip(FRONT).zip(sum).for_each(|(to, from)| *to = from);
    let cipher = cipher(&derived, &header)?;
    Ok((header, cipher))
}

/// Reads a header; gives the key of its segment too.
pub(crate) fn parse(key: &LogKey, header: &[u8; HEADER]) -> Result<(Start, LessSafeKey), Fault> {
    let mut rest = &header[..];
    let magic = take::<8>(&mut rest)?;
    let version = u16::from_be_bytes(*take(&mut rest)?);
    let _producer = take::<PRODUCER_LENGTH>(&mut rest)?;
    let length = u32::from_be_bytes(*take(&mut rest)?);
    let sum = take::<32>(&mut rest)?;
    if magic != MAGIC {
        return Err(Fault::Header);
    }
    if version > VERSION && length as usize != BODY {
        return Err(Fault::Version(version));
    }
    if *sum != checksum(header) || length as usize != BODY {
        return Err(Fault::Header);
    }
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    let start = Start {
        number: u64::from_be_bytes(*take(&mut rest)?),
        seq: u64::from_be_bytes(*take(&mut rest)?),
        hash: *take(&mut rest)?,
        signature: *take(&mut rest)?,
    };
    let derived = key.derive(take(&mut rest)?);
    if check(&derived)? != *take::<KEY>(&mut rest)? {
        return Err(Fault::Key);
    }
    let cipher = cipher(&derived, header)?;
    Ok((start, cipher))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Fault> {
    let (taken, left) = rest.split_first_chunk().ok_or(Fault::Header)?;
    *rest = left;
    Ok(taken)
}

fn checksum(header: &[u8; HEADER]) -> [u8; 32] {
    let (front, rest) = header.split_at(FRONT);
    let mut context = Context::new(&SHA256);
    context.update(front);
    context.update(rest.split_at(32).1);
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

/// Says nothing about the key to one who does not have it.
fn check(derived: &Prk) -> Result<[u8; KEY], Fault> {
    let mut check = [0; KEY];
    let expanded = derived.expand(&[b"azote/host-log/check/1"], HKDF_SHA256).map_err(|_| Fault::Cipher)?;
    expanded.fill(&mut check).map_err(|_| Fault::Cipher)?;
    Ok(check)
}

/// Every byte of the header goes into the key: under a changed header no frame opens.
fn cipher(derived: &Prk, header: &[u8; HEADER]) -> Result<LessSafeKey, Fault> {
    let info = [b"azote/host-log/frames/1", &header[..]];
    let expanded = derived.expand(&info, &AES_256_GCM).map_err(|_| Fault::Cipher)?;
    Ok(LessSafeKey::new(UnboundKey::from(expanded)))
}
