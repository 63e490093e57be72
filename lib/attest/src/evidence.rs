use crate::{Code, Refusal};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest evidence in bytes of JSON.
pub const MAX_EVIDENCE: usize = 192 * 1024;
/// Most entries of an event log.
pub const MAX_EVENTS: usize = 64;
/// Longest `TPMS_ATTEST`, `TPMT_SIGNATURE`, `TPM2B_PUBLIC` and AK certificate in bytes.
pub const MAX_STRUCTURE: usize = 2048;
/// Longest release manifest in bytes.
pub const MAX_MANIFEST: usize = 16 * 1024;
/// Longest signed configuration in bytes.
pub const MAX_CONFIGURATION: usize = release::MAX_TEXT + 1024;
/// Longest certificate chain in bytes of PEM.
pub const MAX_CHAIN: usize = 16 * 1024;
/// Longest name of an entry in bytes.
const MAX_NAME: usize = 36;

/// Bytes, base64 in text.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self).map_err(|_| "not base64")
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        STANDARD.encode(bytes.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A SHA-256 value, hexadecimal in text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl TryFrom<String> for Hash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not 64 lower-case hexadecimal digits";
        let mut digest = [0; 32];
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 2 * digest.len() || !text.bytes().all(digits) {
            return Err(wrong);
        }
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_| wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong)?;
        }
        Ok(Self(digest))
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The register that was extended.
    pub pcr: u8,
    /// What was measured.
    pub what: String,
    /// Its hash.
    pub sha256: Hash,
}

/// What a host gives for a nonce. In JSON it is the answer of the operation `AttestHost`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// `TPMS_ATTEST`: a quote of registers 8 to 12 for [`crate::qualifying_data`].
    pub quote: Bytes,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Bytes,
    /// The TPM's attestation key, `TPM2B_PUBLIC`.
    pub attestation_key: Bytes,
    /// What certifies that key: [`crate::AkCertificate`], signed. Empty if the host has none.
    pub attestation_certificate: Bytes,
    /// The host's certificate and those above it, PEM.
    pub certificate: String,
    /// Everything that was measured, in order.
    pub events: Vec<Event>,
    /// The signed manifest of the release that the host runs. Empty if it runs none.
    pub manifest: Bytes,
    /// The signed configuration. Empty if there is none.
    pub configuration: Bytes,
}

impl Evidence {
    /// Reads evidence, within bounds.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let evidence: Self = Some(json)
            .filter(|json| json.len() <= MAX_EVIDENCE)
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or(Code::Malformed)?;
        evidence.bounded().then_some(evidence).ok_or(Code::Malformed.into())
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether it is within what [`Evidence::parse`] takes.
    pub(crate) fn bounded(&self) -> bool {
        let structures = [&self.quote, &self.signature, &self.attestation_key, &self.attestation_certificate];
        let name =
            |name: &str| (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| matches!(c, ' '..='~'));
        structures.iter().all(|bytes| bytes.0.len() <= MAX_STRUCTURE)
            && self.manifest.0.len() <= MAX_MANIFEST
            && self.configuration.0.len() <= MAX_CONFIGURATION
            && self.certificate.len() <= MAX_CHAIN
            && self.events.len() <= MAX_EVENTS
            && self.events.iter().all(|event| name(&event.what))
    }
}
