use crate::{Bytes, Code, Hash, Refusal};
use ciborium::Value;
use ids::{Environment, HostId};
use token::{Ed25519KeyPair, PublicKey, cose};

const CONTEXT: &[u8] = b"azote/ak/1";
/// What a refusal calls it.
const NAME: &str = "attestation key";

/// The environment's authority says: this attestation key is in the TPM of this host, whose endorsement key a
/// manufacturer certified and which proved (by credential activation) that it holds both. Signed over
/// `[host, environment, attestation key, endorsement, not before, not after]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AkCertificate {
    /// Whose TPM.
    pub host: HostId,
    /// What the host is for.
    pub environment: Environment,
    /// The key, `TPM2B_PUBLIC`.
    pub attestation_key: Bytes,
    /// SHA-256 of the endorsement key's `TPM2B_PUBLIC`.
    pub endorsement: Hash,
    /// First second in which it is valid, Unix time.
    pub not_before: u64,
    /// Last second in which it is valid, Unix time.
    pub not_after: u64,
}

impl AkCertificate {
    /// Signs with the authority's key: a COSE_Sign1. `None` if the library fails.
    pub fn sign(&self, authority: &Ed25519KeyPair) -> Option<Vec<u8>> {
        let payload = cose::to_cbor(&Value::Array(vec![
            self.host.as_str().into(),
            self.environment.name().into(),
            Value::Bytes(self.attestation_key.0.clone()),
            Value::Bytes(self.endorsement.0.to_vec()),
            self.not_before.into(),
            self.not_after.into(),
        ]))?;
        cose::sign(authority, payload, CONTEXT)
    }

    /// Reads a certificate that `authority` signed and that is valid `now`.
    pub fn verify(bytes: &[u8], authority: &PublicKey, now: u64) -> Result<Self, Refusal> {
        let payload = Some(bytes)
            .filter(|bytes| bytes.len() <= crate::MAX_STRUCTURE)
            .and_then(|bytes| cose::open(bytes, &[*authority], CONTEXT));
        let certificate =
            payload.and_then(|payload| Self::decode(&payload)).ok_or_else(|| Code::Certificate.at(NAME))?;
        if (certificate.not_before..=certificate.not_after).contains(&now) {
            Ok(certificate)
        } else {
            Err(Code::Expired.at(NAME))
        }
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let value = cose::from_cbor(payload)?;
        let [host, environment, key, endorsement, not_before, not_after] = value.as_array()?.as_slice()
        else {
            return None;
        };
        Some(Self {
            host: host.as_text()?.parse().ok()?,
            environment: environment.as_text()?.parse().ok()?,
            attestation_key: Bytes(key.as_bytes()?.clone()),
            endorsement: Hash(cose::exact(endorsement)?),
            not_before: cose::seconds(not_before)?,
            not_after: cose::seconds(not_after)?,
        })
    }
}
