use crate::{MAX_LIFETIME, MAX_TOKEN, PublicKey, cose};
use aws_lc_rs::signature::Ed25519KeyPair;
use ciborium::Value;
use ids::HostId;

const CONTEXT: &[u8] = b"azote/card-key/1";
const KIND: &str = "volume";

/// A host says: this is the key of my volume card. Signed by the host identity key over
/// `[host, "volume", public key, not before, not after]`; it goes with the host's X.509 certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardKeyCertificate {
    /// Whose card.
    pub host: HostId,
    /// The card's HPKE public key (X25519).
    pub public_key: [u8; 32],
    /// First second in which it is valid, Unix time.
    pub not_before: u64,
    /// Last second in which it is valid, Unix time.
    pub not_after: u64,
}

/// Why a card key certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CardKeyRefused {
    /// Not a card key certificate.
    #[error("this is no card key certificate")]
    Malformed,
    /// Not signed by this host identity key.
    #[error("the card key is not certified by this host identity")]
    Signature,
    /// Out of its time, or for longer than [`MAX_LIFETIME`].
    #[error("the card key certificate is not valid now: read a new one from the host")]
    Time,
}

impl CardKeyCertificate {
    /// Signs with the host identity key. `None` if the library fails.
    pub fn sign(&self, identity: &Ed25519KeyPair) -> Option<Vec<u8>> {
        cose::sign(identity, self.encode()?, CONTEXT)
    }

    /// Reads a certificate that `identity` signed and that is valid `now`. The caller must know by the X.509
    /// certificate that `identity` is the key of the host that the result names.
    pub fn verify(bytes: &[u8], identity: &PublicKey, now: u64) -> Result<Self, CardKeyRefused> {
        let message = Some(bytes).filter(|b| b.len() <= MAX_TOKEN).and_then(cose::parse);
        let message = message.ok_or(CardKeyRefused::Malformed)?;
        if !cose::signed_by(&message, &[*identity], CONTEXT) {
            return Err(CardKeyRefused::Signature);
        }
        let certificate =
            Self::decode(&message.payload.unwrap_or_default()).ok_or(CardKeyRefused::Malformed)?;
        let lifetime = certificate.not_after.saturating_sub(certificate.not_before);
        if lifetime <= MAX_LIFETIME && (certificate.not_before..=certificate.not_after).contains(&now) {
            Ok(certificate)
        } else {
            Err(CardKeyRefused::Time)
        }
    }

    fn encode(&self) -> Option<Vec<u8>> {
        cose::to_cbor(&Value::Array(vec![
            self.host.as_str().into(),
            KIND.into(),
            Value::Bytes(self.public_key.to_vec()),
            self.not_before.into(),
            self.not_after.into(),
        ]))
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let value = cose::from_cbor(payload)?;
        let [host, kind, public_key, not_before, not_after] = value.as_array()?.as_slice() else {
            return None;
        };
        (kind.as_text()? == KIND).then_some(())?;
        Some(Self {
            host: host.as_text()?.parse().ok()?,
            public_key: cose::exact(public_key)?,
            not_before: cose::seconds(not_before)?,
            not_after: cose::seconds(not_after)?,
        })
    }
}
