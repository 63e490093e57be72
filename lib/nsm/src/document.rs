//! The signed document: COSE_Sign1 (RFC 9052) with ES384, untagged, as AWS's Nitro Security Module writes it.

use crate::{Bank, Digest, Issuer, certificate::Leaf};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};
use std::{collections::BTreeMap, time::Duration};

/// The protected header: algorithm ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// A document's key is used for so long, so that who gets a document has at least the rest of its life.
const KEY_USED: Duration = Duration::from_secs(60 * 60);

/// What a document says, beside its certificates.
pub(crate) struct Contents<'a> {
    pub(crate) module_id: &'a str,
    /// Milliseconds since 1970.
    pub(crate) timestamp: u64,
    pub(crate) bank: &'a Bank,
    pub(crate) user_data: Option<ByteBuf>,
    pub(crate) nonce: Option<ByteBuf>,
    pub(crate) public_key: Option<ByteBuf>,
}

/// All nine entries are always there, in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    pub(crate) module_id: String,
    pub(crate) digest: Digest,
    /// Milliseconds since 1970.
    pub(crate) timestamp: u64,
    pub(crate) pcrs: BTreeMap<u16, ByteBuf>,
    pub(crate) certificate: ByteBuf,
    /// Root first.
    pub(crate) cabundle: Vec<ByteBuf>,
    pub(crate) public_key: Option<ByteBuf>,
    pub(crate) user_data: Option<ByteBuf>,
    pub(crate) nonce: Option<ByteBuf>,
}

impl Payload {
    /// None unless it is written as [`Signer::sign`] writes it.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let payload = ciborium::from_reader(bytes).ok()?;
        (encode(&payload)? == bytes).then_some(payload)
    }
}

/// A document's parts.
pub(crate) struct Signed {
    pub(crate) payload: ByteBuf,
    pub(crate) signature: ByteBuf,
    pub(crate) to_be_signed: Vec<u8>,
}

/// Takes a document apart; None unless it is written as [`Signer::sign`] writes it.
pub(crate) fn open(document: &[u8]) -> Option<Signed> {
    type Parts = (ByteBuf, BTreeMap<u8, u8>, ByteBuf, ByteBuf);
    let (protected, unprotected, payload, signature): Parts = ciborium::from_reader(document).ok()?;
    let same = protected == PROTECTED && unprotected.is_empty() && write(&payload, &signature)? == document;
    let to_be_signed = same.then(|| to_be_signed(&payload)).flatten()?;
    Some(Signed { payload, signature, to_be_signed })
}

pub(crate) fn to_be_signed(payload: &[u8]) -> Option<Vec<u8>> {
    encode(&("Signature1", Bytes::new(&PROTECTED), Bytes::new(&[]), Bytes::new(payload)))
}

pub(crate) fn write(payload: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let unprotected = BTreeMap::<u8, u8>::new();
    encode(&(Bytes::new(&PROTECTED), unprotected, Bytes::new(payload), Bytes::new(signature)))
}

/// A key for documents: its certificate.
#[derive(Debug)]
pub(crate) struct Signer {
    leaf: Leaf,
    /// Of the instance, which it was certified by.
    issuer: Vec<u8>,
    made: Duration,
}

impl Signer {
    /// `old` while it is fresh and from the same issuer; else a new one. None if the issuer cannot certify now.
    pub(crate) fn still_good(
        old: Option<Self>,
        issuer: &Issuer,
        module: &str,
        serial: [u8; 8],
        now: Duration,
    ) -> Option<Self> {
        let fresh = |old: &Self| {
            old.issuer == issuer.certificate() && now.checked_sub(old.made).is_some_and(|age| age < KEY_USED)
        };
        match old.filter(|old| issuer.is_good(now) && fresh(old)) {
            Some(old) => Some(old),
            None => {
                let leaf = issuer.certify(module, serial, now)?;
                Some(Self { leaf, issuer: issuer.certificate().to_vec(), made: now })
            }
        }
    }

    pub(crate) fn sign(&self, contents: Contents<'_>, issuer: &Issuer) -> Option<Vec<u8>> {
        let Contents { module_id, timestamp, bank, user_data, nonce, public_key } = contents;
        let bytes = |bytes: &[u8]| ByteBuf::from(bytes.to_vec());
        let payload = encode(&Payload {
            module_id: module_id.to_owned(),
            digest: Digest::SHA384,
            timestamp,
            pcrs: bank.locked().map(|(index, value)| (index, bytes(value))).collect(),
            certificate: bytes(self.leaf.certificate()),
            cabundle: issuer.bundle().map(bytes).collect(),
            public_key,
            user_data,
            nonce,
        })?;
        write(&payload, &issuer.sign(module_id, &self.leaf, &to_be_signed(&payload)?)?)
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).ok()?;
    Some(bytes)
}
