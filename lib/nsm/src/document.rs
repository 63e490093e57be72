//! The signed document: COSE_Sign1 (RFC 9052) with ES384, untagged, as AWS's Nitro Security Module writes it.

use crate::{Bank, Digest, Issuer, certificate::Leaf};
use serde::Serialize;
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
#[derive(Serialize)]
struct Payload<'a> {
    module_id: &'a str,
    digest: Digest,
    timestamp: u64,
    pcrs: BTreeMap<u16, &'a Bytes>,
    certificate: &'a Bytes,
    cabundle: Vec<&'a Bytes>,
    public_key: Option<ByteBuf>,
    user_data: Option<ByteBuf>,
    nonce: Option<ByteBuf>,
}

/// A key for documents, with its certificate.
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
        let payload = encode(&Payload {
            module_id,
            digest: Digest::SHA384,
            timestamp,
            pcrs: bank.locked().map(|(index, value)| (index, Bytes::new(value))).collect(),
            certificate: Bytes::new(self.leaf.certificate()),
            cabundle: issuer.bundle().map(Bytes::new).collect(),
            public_key,
            user_data,
            nonce,
        })?;
        let (protected, payload) = (Bytes::new(&PROTECTED), Bytes::new(&payload));
        let signed = encode(&("Signature1", protected, Bytes::new(&[]), payload))?;
        let signature = self.leaf.sign(&signed)?;
        let unprotected = BTreeMap::<u8, u8>::new();
        encode(&(protected, unprotected, payload, Bytes::new(&signature)))
    }
}

fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).ok()?;
    Some(bytes)
}
