//! COSE_Sign1 with exactly one way to write it: tag 18, protected header `{alg: EdDSA}`, empty unprotected
//! header, payload inside, 64 bytes of signature.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value;
use coset::{CoseSign1, CoseSign1Builder, Header, HeaderBuilder, TaggedCborSerializable, iana};
use serde::{Deserialize, Serialize};

const SIGNATURE: usize = 64;

/// An Ed25519 public key (RFC 8032), 32 bytes; base64url without padding in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The public half of a key pair.
    pub fn of(key: &Ed25519KeyPair) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(key.public_key().as_ref());
        Self(bytes)
    }
}

/// The y coordinates of edwards25519's eight points of small order, every encoding of them, without the sign of x.
const SMALL_ORDER: [[u8; 32]; 7] = [
    edge(0, 0),
    edge(1, 0),
    edge(0xec, 0x7f),
    edge(0xed, 0x7f),
    edge(0xee, 0x7f),
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
];

/// The numbers about 0 and about the field's prime 2^255 - 19, in little endian.
const fn edge(first: u8, last: u8) -> [u8; 32] {
    let mut bytes = [if last == 0 { 0 } else { 0xff }; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl PublicKey {
    /// Whether signatures under this key can be made by anybody: RFC 8032 lets verifiers accept such keys, and
    /// the cryptographic library does.
    pub fn has_small_order(&self) -> bool {
        let mut y = self.0;
        y[31] &= 0x7f;
        SMALL_ORDER.contains(&y)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let key = bytes.and_then(|b| b.try_into().ok()).map(Self);
        key.filter(|key| !key.has_small_order())
            .ok_or("not a proper Ed25519 key: 32 bytes of base64url without padding")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        URL_SAFE_NO_PAD.encode(key.0)
    }
}

fn header() -> Header {
    HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build()
}

/// Signs `payload`. `context` (the external AAD of RFC 9052 §4.3) keeps signatures of one purpose from
/// being taken for another. `None` if the library fails.
pub fn sign(key: &Ed25519KeyPair, payload: Vec<u8>, context: &[u8]) -> Option<Vec<u8>> {
    CoseSign1Builder::new()
        .protected(header())
        .payload(payload)
        .try_create_signature(context, |message| key.try_sign(message).map(|s| s.as_ref().to_vec()))
        .ok()?
        .build()
        .to_tagged_vec()
        .ok()
}

/// Reads a COSE_Sign1 without checking its signature.
pub fn parse(bytes: &[u8]) -> Option<CoseSign1> {
    let message = CoseSign1::from_tagged_slice(bytes).ok()?;
    let strict = message.protected.header == header()
        && message.unprotected.is_empty()
        && message.payload.is_some()
        && message.signature.len() == SIGNATURE;
    // Writing it again with the header that we would write finds every other trick of encoding.
    let mut again = message.clone();
    again.protected.original_data = None;
    (strict && again.to_tagged_vec().ok()? == bytes).then_some(message)
}

/// Whether one of `keys` signed the message for `context`.
pub fn signed_by(message: &CoseSign1, keys: &[PublicKey], context: &[u8]) -> bool {
    keys.iter().filter(|key| !key.has_small_order()).any(|key| {
        message
            .verify_signature(context, |signature, signed| {
                ParsedPublicKey::new(&ED25519, key.0)
                    .map_err(drop)?
                    .verify_sig(signed, signature)
                    .map_err(drop)
            })
            .is_ok()
    })
}

/// The payload of a message that one of `keys` signed for `context`.
pub fn open(bytes: &[u8], keys: &[PublicKey], context: &[u8]) -> Option<Vec<u8>> {
    parse(bytes).filter(|message| signed_by(message, keys, context))?.payload
}

/// Base64url without padding.
pub fn to_base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes at most [`crate::MAX_TOKEN`] characters.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    if text.len() > crate::MAX_TOKEN {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Writes one CBOR item (RFC 8949). `None` if the library fails.
pub fn to_cbor(value: &Value) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).ok()?;
    Some(bytes)
}

/// Reads one CBOR item that is written as we would write it.
pub fn from_cbor(bytes: &[u8]) -> Option<Value> {
    let value: Value = ciborium::from_reader(bytes).ok()?;
    (to_cbor(&value)? == bytes).then_some(value)
}

/// An unsigned integer.
pub fn seconds(value: &Value) -> Option<u64> {
    u64::try_from(value.as_integer()?).ok()
}

/// A byte string of exactly this length.
pub fn exact<const N: usize>(value: &Value) -> Option<[u8; N]> {
    value.as_bytes()?.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (R, S) = (identity, 0) is a signature of about one message in eight under a key of order eight, and of
    /// every message under the identity: the library takes it, so this crate must not.
    #[test]
    fn signatures_under_keys_of_small_order_are_nobodys() {
        let mut forged = [0; SIGNATURE];
        forged[0] = 1;
        let mut taken = 0;
        for y in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut key = PublicKey(y);
                key.0[31] |= sign;
                assert!(key.has_small_order());
                assert!(PublicKey::try_from(String::from(key)).is_err());
                for number in 0..64_u8 {
                    let message = CoseSign1Builder::new().protected(header()).payload(vec![number]).build();
                    let message = CoseSign1 { signature: forged.to_vec(), ..message };
                    let library = ParsedPublicKey::new(&ED25519, key.0)
                        .is_ok_and(|key| key.verify_sig(&message.tbs_data(b""), &forged).is_ok());
                    taken += u32::from(library);
                    assert!(!signed_by(&message, &[key], b""));
                }
            }
        }
        assert!(taken >= 64, "the library refuses them by itself: then this crate need not");
        let honest = PublicKey::of(&Ed25519KeyPair::generate().unwrap());
        assert!(!honest.has_small_order() && PublicKey::try_from(String::from(honest)) == Ok(honest));
    }
}
