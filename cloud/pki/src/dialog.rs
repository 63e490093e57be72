//! The four messages by which a host becomes one of an environment, a line of JSON each.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ids::{Environment, HostId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes, in text base64url without padding.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Encoded(pub Vec<u8>);

impl TryFrom<String> for Encoded {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        URL_SAFE_NO_PAD.decode(text).map(Self).map_err(|_| "not base64url without padding")
    }
}

impl From<Encoded> for String {
    fn from(bytes: Encoded) -> Self {
        URL_SAFE_NO_PAD.encode(bytes.0)
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// First, the host: who it is, and what it wants certified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its TPM's endorsement key, `TPM2B_PUBLIC`.
    pub ek: Encoded,
    /// The manufacturer's certificate for it, X.509 in DER.
    pub ek_certificate: Encoded,
    /// Its TPM's attestation key, `TPM2B_PUBLIC`.
    pub ak: Encoded,
    /// Request for its identity key, PKCS#10 in PEM.
    pub csr: String,
    /// Request for the key under which its instances prove what they are, PKCS#10 in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
}

/// Second, the authority: what only the TPM with both keys can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// `TPM2B_ID_OBJECT`.
    pub credential: Encoded,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub secret: Encoded,
    /// 32 bytes for the quote.
    pub nonce: Encoded,
}

/// Third, the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The secret of the credential.
    pub proof: Encoded,
    /// What it runs.
    pub evidence: Measured,
}

/// A quote and what it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// `TPMS_ATTEST`, with [`attest::qualifying_data`] of the nonce and the identity key.
    pub attest: Encoded,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Encoded,
    /// The event log, as the stages of the start hand it on.
    pub events: Encoded,
}

/// Fourth, the authority: the host is one of its environment. Also what a host is offered when its certificates grow old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Which environment.
    pub environment: Environment,
    /// The host's name.
    pub host: HostId,
    /// Its certificate chain, PEM, its own first.
    pub chain: String,
    /// The authority's certificate, PEM: what a chain that is offered later must lead to.
    pub authority: String,
    /// The certificate of its attestation key, [`attest::AkCertificate`], signed.
    pub ak_certificate: Encoded,
    /// The chain of the key under which its instances prove what they are, PEM, its own first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_chain: Option<String>,
}
