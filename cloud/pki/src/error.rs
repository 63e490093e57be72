use crate::{MAX_LIFETIME, MAX_REQUEST, PATIENCE};
use ids::HostId;
use std::{io, path::PathBuf};

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a certificate request, or its signature does not prove possession of an Ed25519 key.
    #[error("not a PKCS#10 request (PEM, at most {MAX_REQUEST} bytes) signed by its own Ed25519 key")]
    Request,
    /// The same for a P-384 key.
    #[error("not a PKCS#10 request (PEM, at most {MAX_REQUEST} bytes) signed by its own P-384 key")]
    AttestationRequest,
    /// A lifetime of zero, or beyond [`MAX_LIFETIME`].
    #[error("certificates live 1 s to {} days", MAX_LIFETIME.as_secs() / 86_400)]
    Lifetime,
    /// No manufacturer says that the endorsement key lies in one of its TPMs.
    #[error("no manufacturer that is trusted here certified this TPM's endorsement key")]
    EndorsementKey,
    /// No credential can be made for these keys.
    #[error("the TPM's keys: {0}")]
    Credential(#[from] tpm::CredentialError),
    /// The answer does not hold the credential's secret.
    #[error("the TPM with this endorsement key does not hold this attestation key")]
    Proof,
    /// The answer came too late.
    #[error("the host took longer than {} s; begin again", PATIENCE.as_secs())]
    Late,
    /// The event log is none.
    #[error("the event log is not written as the stages of a start write it")]
    Events,
    /// What the host runs is not what it should.
    #[error("{0}")]
    Evidence(#[from] attest::Refusal),
    /// The name belongs to another TPM.
    #[error("{0} is enrolled with another TPM; retire it first")]
    Taken(HostId),
    /// The TPM belongs to another name.
    #[error("this TPM is enrolled as {0}; reset or retire that host first")]
    OtherHost(HostId),
    /// No such host is enrolled.
    #[error("{0} is not enrolled here")]
    Unknown(HostId),
    /// The folder belongs to the authority of the other environment.
    #[error("this is the authority of the other environment: nothing crosses from one to the other")]
    Environment,
    /// The list of hosts is damaged.
    #[error("{0} is damaged: put it back from a copy")]
    Registry(PathBuf),
    /// The cryptographic library refused.
    #[error("the authority cannot sign")]
    Sign,
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library refused, or the authority's files are damaged.
    #[error("the authority cannot sign: {0}")]
    Library(#[from] rcgen::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request | Self::AttestationRequest | Self::Events => "enroll.malformed",
            Self::EndorsementKey => "enroll.endorsement",
            Self::Credential(_) => "enroll.keys",
            Self::Proof => "enroll.proof",
            Self::Late => "enroll.late",
            Self::Evidence(refusal) => refusal.code.as_str(),
            Self::Taken(_) | Self::OtherHost(_) => "enroll.taken",
            Self::Unknown(_) => "host.unknown",
            Self::Environment => "enroll.environment",
            Self::Lifetime | Self::Registry(_) | Self::Sign | Self::File { .. } | Self::Library(_) => {
                "authority.failed"
            }
        }
    }
}
