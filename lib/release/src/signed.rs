//! Documents signed by the root key: COSE_Sign1 over CBOR that has exactly one way to be written.

use crate::Error;
use serde::{Serialize, de::DeserializeOwned};
use token::{Ed25519KeyPair, PublicKey, cose};

/// Longest signed document in bytes.
pub(crate) const MAX_SIGNED: usize = 128 * 1024;

pub(crate) fn write(
    document: &impl Serialize,
    key: &Ed25519KeyPair,
    context: &[u8],
) -> Result<Vec<u8>, Error> {
    let failed = || Error::Make("the library does not sign".to_owned());
    let mut payload = Vec::new();
    ciborium::into_writer(document, &mut payload).map_err(|_| failed())?;
    cose::sign(key, payload, context).filter(|bytes| bytes.len() <= MAX_SIGNED).ok_or_else(failed)
}

pub(crate) fn read<T: Serialize + DeserializeOwned>(
    name: &'static str,
    bytes: &[u8],
    key: &PublicKey,
    context: &[u8],
) -> Result<T, Error> {
    let message = Some(bytes).filter(|bytes| bytes.len() <= MAX_SIGNED).and_then(cose::parse);
    let message = message.ok_or(Error::Form(name))?;
    if !cose::signed_by(&message, &[*key], context) {
        return Err(Error::Signature(name));
    }
    let payload = message.payload.unwrap_or_default();
    let document: T = ciborium::from_reader(&payload[..]).map_err(|_| Error::Form(name))?;
    let mut again = Vec::new();
    let same = ciborium::into_writer(&document, &mut again).is_ok() && again == payload;
    if same { Ok(document) } else { Err(Error::Form(name)) }
}
