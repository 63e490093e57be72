use crate::{MAX_KEYS, MAX_TOKEN, PublicKey, Refusal, cose};
use aws_lc_rs::signature::Ed25519KeyPair;
use ciborium::Value;
use serde::{Deserialize, Serialize};

const CONTEXT: &[u8] = b"azote/token-keys/1";

/// The public keys of the token service, as it serves them and as a host holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "List", into = "List")]
pub struct Keys(Vec<PublicKey>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    keys: Vec<PublicKey>,
}

impl Keys {
    /// One to [`MAX_KEYS`] different keys, otherwise `None`.
    pub fn new(keys: Vec<PublicKey>) -> Option<Self> {
        let distinct = keys.iter().enumerate().all(|(i, key)| !keys.iter().take(i).any(|other| other == key));
        ((1..=MAX_KEYS).contains(&keys.len()) && distinct).then_some(Self(keys))
    }

    /// The keys.
    pub fn list(&self) -> &[PublicKey] {
        &self.0
    }

    /// Reads the set that follows these keys: signed by one of them, and numbered higher than the present set.
    pub fn follow(&self, signed: &[u8], sequence: u64) -> Result<KeySet, Refusal> {
        let message = Some(signed).filter(|bytes| bytes.len() <= MAX_TOKEN).and_then(cose::parse);
        let message = message.ok_or(Refusal::KeysMalformed)?;
        if !cose::signed_by(&message, &self.0, CONTEXT) {
            return Err(Refusal::KeysSignature);
        }
        let next = KeySet::decode(&message.payload.unwrap_or_default()).ok_or(Refusal::KeysMalformed)?;
        if next.sequence > sequence { Ok(next) } else { Err(Refusal::KeysStale) }
    }
}

/// The keys that a host shall trust next. Signed by a key that it trusts now over `[sequence, [keys]]`, so that keys
/// rotate without downtime: first a set with the old key and the new one, then one with the new key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// Grows with each set, from 1. The set that a host was installed with is number 0.
    pub sequence: u64,
    /// The keys.
    pub keys: Keys,
}

impl KeySet {
    /// Signs with a key of the present set. `None` if the library fails.
    pub fn sign(&self, key: &Ed25519KeyPair) -> Option<Vec<u8>> {
        let keys = self.keys.0.iter().map(|key| Value::Bytes(key.0.to_vec())).collect();
        let payload = cose::to_cbor(&Value::Array(vec![self.sequence.into(), Value::Array(keys)]))?;
        cose::sign(key, payload, CONTEXT)
    }

    /// What a signed set says of its number, unchecked.
    pub fn sequence_of(signed: &[u8]) -> Option<u64> {
        Some(signed)
            .filter(|bytes| bytes.len() <= MAX_TOKEN)
            .and_then(cose::parse)?
            .payload
            .and_then(|payload| Some(Self::decode(&payload)?.sequence))
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let value = cose::from_cbor(payload)?;
        let [sequence, keys] = value.as_array()?.as_slice() else { return None };
        let keys: Option<Vec<_>> =
            keys.as_array()?.iter().map(|key| cose::exact(key).map(PublicKey)).collect();
        Some(Self { sequence: cose::seconds(sequence)?, keys: Keys::new(keys?)? })
    }
}

impl TryFrom<List> for Keys {
    type Error = &'static str;
    fn try_from(list: List) -> Result<Self, Self::Error> {
        Self::new(list.keys).ok_or("want one or two keys of the token service")
    }
}

impl From<Keys> for List {
    fn from(keys: Keys) -> List {
        List { keys: keys.0 }
    }
}
