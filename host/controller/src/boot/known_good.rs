//! The complete sets of known-good measurements of a host, each signed by a key that never leaves its TPM. The file
//! has one set, and while an update is under way those of the starts that it may be cut into: the present release, the
//! present release with the next firmware in each flash, the next release.
//!
//! All numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `AZSETS01` |
//! | 2 | format version, 1 |
//! | 16 | producer, text, zero-padded |
//! | 4 | length of what follows the checksum |
//! | 32 | SHA-256 of what follows |
//! | | CBOR: the set key's `TPM2B_PUBLIC`, and for each set its body (CBOR), the signature over it, and the TPM's approvals for both compartments |

use super::sha256;
use boot_rom::events::{Event, Events};
use ids::Environment;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::{ByteArray, ByteBuf};
use std::collections::BTreeMap;
use token::PublicKey;
use tpm::{Approval, Digest, Measurement, PcrValues};

const MAGIC: &[u8; 8] = b"AZSETS01";
const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("controller ", env!("CARGO_PKG_VERSION")).as_bytes();
const PRODUCER_LENGTH: usize = 16;
/// Longest file in bytes.
pub const MAX_FILE: usize = 512 * 1024;
/// Most sets in a file.
pub const MAX_SETS: usize = 4;
/// Longer than a digest, so that no signature of a set is one of an approval.
const CONTEXT: &[u8] = b"azote/known-good-set/1: the complete set of known-good measurements of a host\n";

/// Registers that the early compartment opens by.
pub const EARLY: std::ops::RangeInclusive<u8> = 8..=10;
/// Registers that the store opens by.
pub const ALL: std::ops::RangeInclusive<u8> = 8..=12;

/// Why a file is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Something else, or altered.
    #[error("it is altered or no such file")]
    Form,
    /// A later release made it.
    #[error("its format version {0} is of a later release")]
    Version(u16),
    /// The key in the file did not sign it.
    #[error("it is not signed by its key")]
    Signature,
}

/// One set: what a start must measure, and what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// Grows with each set.
    pub sequence: u64,
    /// Security version of the release.
    pub svn: u32,
    /// What the host is for.
    pub environment: Environment,
    /// Whether the store's key has a removable half.
    pub security_key: bool,
    /// Who signs releases and configurations.
    pub root: PublicKey,
    /// The configuration's number.
    pub configuration: u64,
    /// The release's signed manifest.
    pub manifest: Vec<u8>,
    /// Everything that a start measures, in order, up to where the store opens.
    pub events: Events,
    /// For each image in the store, by its hash, the hash of its file there.
    pub sums: BTreeMap<Digest, Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    sequence: u64,
    svn: u32,
    environment: Environment,
    security_key: bool,
    root: PublicKey,
    configuration: u64,
    manifest: ByteBuf,
    events: ByteBuf,
    sums: Vec<(ByteArray<32>, ByteArray<32>)>,
}

/// The first entry in which a start differs from a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its register.
    pub pcr: u8,
    /// Its name.
    pub entry: String,
    /// The stable code.
    pub code: &'static str,
}

impl Set {
    /// The first entry in which `measured` differs.
    pub fn difference(&self, measured: &Events) -> Option<Difference> {
        let (mut expected, mut measured) = (self.events.iter(), measured.iter());
        loop {
            let event = match (expected.next(), measured.next()) {
                (None, None) => return None,
                (Some(one), Some(other)) if one == other => continue,
                (Some(expected), _) => expected,
                (None, Some(extra)) => extra,
            };
            return Some(Difference {
                pcr: event.pcr(),
                entry: event.name().to_owned(),
                code: code(event.pcr(), event.name()),
            });
        }
    }

    /// The entry of this name.
    pub fn event(&self, name: &str) -> Option<Event> {
        self.events.iter().find(|event| event.name() == name)
    }

    /// The values that registers have when the set has been measured.
    pub fn values(&self, registers: std::ops::RangeInclusive<u8>) -> PcrValues {
        values(&self.events, registers)
    }

    fn of(&self, pcrs: std::ops::RangeInclusive<u8>) -> impl Iterator<Item = Event> {
        self.events.iter().filter(move |event| pcrs.contains(&event.pcr()))
    }

    /// What is signed.
    pub fn message(body: &[u8]) -> Vec<u8> {
        [CONTEXT, body].concat()
    }

    /// Its bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let sums = self.sums.iter().map(|(image, file)| (ByteArray::new(*image), ByteArray::new(*file)));
        to_cbor(&Body {
            sequence: self.sequence,
            svn: self.svn,
            environment: self.environment,
            security_key: self.security_key,
            root: self.root,
            configuration: self.configuration,
            manifest: self.manifest.clone().into(),
            events: self.events.bytes().to_vec().into(),
            sums: sums.collect(),
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let body: Body = from_cbor(bytes)?;
        let sums = body.sums.into_iter().map(|(image, file)| (image.into_array(), file.into_array()));
        let set = Self {
            sequence: body.sequence,
            svn: body.svn,
            environment: body.environment,
            security_key: body.security_key,
            root: body.root,
            configuration: body.configuration,
            manifest: body.manifest.into_vec(),
            events: Events::parse(&body.events).ok()?,
            sums: sums.collect(),
        };
        (set.encode()? == bytes).then_some(set)
    }
}

/// The values of registers after these events, if they were zero before.
pub fn values(events: &Events, registers: std::ops::RangeInclusive<u8>) -> PcrValues {
    let log = events.iter().filter(|event| registers.contains(&event.pcr())).map(|event| Measurement {
        pcr: event.pcr(),
        digest: event.sha256(),
        description: String::new(),
    });
    // An event has no register that replaying refuses.
    let mut values = tpm::replay(&log.collect::<Vec<_>>()).unwrap_or_default();
    registers.for_each(|pcr| {
        values.entry(pcr).or_default();
    });
    values
}

/// The code of a difference in an entry.
fn code(pcr: u8, name: &str) -> &'static str {
    match (pcr, name) {
        (..=9, _) => "boot.release",
        (10, "policies") => "boot.policies",
        (10, "token keys") => "boot.token-keys",
        (10, _) => "boot.configuration",
        (12, _) => "boot.firmware",
        _ => "boot.image",
    }
}

/// A set with what the TPM signed for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed {
    /// The set.
    pub set: Set,
    /// Over the set.
    pub signature: Vec<u8>,
    /// For the early compartment.
    pub early: Approval,
    /// For the store.
    pub store: Approval,
}

/// The file.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownGood {
    /// The set key's public half, `TPM2B_PUBLIC`.
    pub key: Vec<u8>,
    /// The sets, the one in force first.
    pub sets: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    key: ByteBuf,
    sets: Vec<[ByteBuf; 4]>,
}

impl KnownGood {
    /// The set of the start that is going on: the last of those that agree with what earlier stages measured and with
    /// the firmware, else of those that agree with the stages, else the one in force.
    pub fn choose(&self, handed: &Events, firmware: &[Event]) -> Option<&Signed> {
        let stages = |signed: &Signed| signed.set.of(0..=9).eq(handed.iter());
        let firmware = |signed: &Signed| signed.set.of(12..=12).eq(firmware.iter().copied());
        let agree = || self.sets.iter().rev().filter(|signed| stages(signed));
        agree().find(|signed| firmware(signed)).or_else(|| agree().next_back()).or(self.sets.first())
    }

    /// The bytes of the file; `None` if it is out of bounds.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let set = |signed: &Signed| {
            let Signed { set, signature, early, store } = signed;
            Some([
                set.encode()?.into(),
                signature.clone().into(),
                early.encode().into(),
                store.encode().into(),
            ])
        };
        let sets: Option<_> = self.sets.iter().map(set).collect();
        let body = to_cbor(&File { key: self.key.clone().into(), sets: sets? })?;
        let mut producer = [0; PRODUCER_LENGTH];
        producer.iter_mut().zip(PRODUCER).for_each(|(to, from)| *to = *from);
        let length = u32::try_from(body.len()).ok()?.to_be_bytes();
        let file: [&[u8]; 6] = [MAGIC, &VERSION.to_be_bytes(), &producer, &length, &sha256(&body), &body];
        let file = file.concat();
        (file.len() <= MAX_FILE && (1..=MAX_SETS).contains(&self.sets.len())).then_some(file)
    }

    /// Reads a file, and checks that its key signed its sets. Whether that key is this host's, only the TPM tells.
    pub fn decode(bytes: &[u8]) -> Result<Self, SetError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(SetError::Form)?;
        let (version, rest) = rest.split_first_chunk().ok_or(SetError::Form)?;
        let (_producer, rest) = rest.split_first_chunk::<PRODUCER_LENGTH>().ok_or(SetError::Form)?;
        let (length, rest) = rest.split_first_chunk().ok_or(SetError::Form)?;
        let (sum, body) = rest.split_first_chunk::<32>().ok_or(SetError::Form)?;
        match u16::from_be_bytes(*version) {
            _ if magic != MAGIC || bytes.len() > MAX_FILE => return Err(SetError::Form),
            VERSION => {}
            later => return Err(SetError::Version(later)),
        }
        if u32::from_be_bytes(*length) as usize != body.len() || sha256(body) != *sum {
            return Err(SetError::Form);
        }
        let File { key, sets } = from_cbor(body).ok_or(SetError::Form)?;
        if !(1..=MAX_SETS).contains(&sets.len()) {
            return Err(SetError::Form);
        }
        let sets: Result<_, _> = sets.into_iter().map(|set| open(&key, set)).collect();
        Ok(Self { key: key.into_vec(), sets: sets? })
    }
}

fn open(key: &[u8], [body, signature, early, store]: [ByteBuf; 4]) -> Result<Signed, SetError> {
    tpm::check_signature(key, &Set::message(&body), &signature).map_err(|_| SetError::Signature)?;
    Ok(Signed {
        set: Set::decode(&body).ok_or(SetError::Form)?,
        signature: signature.into_vec(),
        early: Approval::decode(&early).map_err(|_| SetError::Form)?,
        store: Approval::decode(&store).map_err(|_| SetError::Form)?,
    })
}

fn to_cbor(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).ok()?;
    Some(bytes)
}

/// Reads what is written as [`to_cbor`] writes it, and nothing else.
fn from_cbor<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = ciborium::from_reader(bytes).ok()?;
    (to_cbor(&value)? == bytes).then_some(value)
}

#[cfg(test)]
mod tests;
