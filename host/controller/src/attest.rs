//! Evidence of what the host is and runs, for a nonce: the TPM is asked at that moment, over a connection that was
//! opened before the process confined itself. Everything else was read at the boot, from what was measured.

use crate::Refusal;
use attest::{PCRS, qualifying_data};
use host_api::{
    AttestHost, AttestationKey, HostEvidence, Measured, Pem, SignedConfiguration, SignedManifest,
    TpmStructure,
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use token::PublicKey;
use tpm::Tpm;

/// The host's TPM, kept open after the boot. Whoever asks it waits for its turn.
pub type SharedTpm = Arc<Mutex<Tpm>>;

/// What a host shows beside what its TPM signs. A host that was not started from a release has less to show.
#[derive(Debug, Clone, Default)]
pub struct Papers {
    /// What certifies the TPM's attestation key: COSE_Sign1 by the environment's authority.
    pub attestation_certificate: Vec<u8>,
    /// The release's signed manifest.
    pub manifest: Vec<u8>,
    /// The signed configuration.
    pub configuration: Vec<u8>,
}

/// Who gives evidence.
#[derive(Debug)]
pub struct Attester {
    tpm: SharedTpm,
    key: AttestationKey,
    certificate: RwLock<AttestationKey>,
    manifest: SignedManifest,
    configuration: SignedConfiguration,
}

impl Attester {
    /// Asks the TPM for its attestation key. Papers that are too long to be shown are an error.
    pub fn new(tpm: &SharedTpm, papers: &Papers) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let key = tpm.lock().unwrap_or_else(PoisonError::into_inner).attestation_key()?;
        Ok(Self {
            tpm: Arc::clone(tpm),
            key: AttestationKey::from_bytes(&key)?,
            certificate: RwLock::new(AttestationKey::from_bytes(&papers.attestation_certificate)?),
            manifest: SignedManifest::from_bytes(&papers.manifest)?,
            configuration: SignedConfiguration::from_bytes(&papers.configuration)?,
        })
    }

    /// Shows another certificate of the attestation key from now on.
    pub fn present(&self, certificate: AttestationKey) {
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }

    /// Whether the TPM's attestation key is this one, `TPM2B_PUBLIC`.
    pub fn has(&self, key: &[u8]) -> bool {
        self.key.to_bytes() == key
    }

    /// Evidence for the nonce, of a host with this identity key, certificate and event log.
    pub fn evidence(
        &self,
        request: &AttestHost,
        identity: &PublicKey,
        certificate: &Pem,
        events: &[Measured],
    ) -> Result<HostEvidence, Refusal> {
        let mut tpm = self.tpm.lock().unwrap_or_else(PoisonError::into_inner);
        let data = qualifying_data(&request.nonce.to_bytes(), identity);
        let quote = tpm.quote(&data, &PCRS.collect::<Vec<_>>()).map_err(|error| gone(&error))?;
        drop(tpm);
        let structure = |bytes: &[u8]| TpmStructure::from_bytes(bytes).map_err(|_| Refusal::of("tpm.gone"));
        Ok(HostEvidence {
            quote: structure(&quote.attest)?,
            signature: structure(&quote.signature)?,
            attestation_key: self.key.clone(),
            attestation_certificate: self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone(),
            certificate: certificate.clone(),
            events: events.to_vec(),
            manifest: self.manifest.clone(),
            configuration: self.configuration.clone(),
        })
    }
}

fn gone(error: &tpm::Error) -> Refusal {
    tracing::error!(%error, code = error.code(), "the TPM does not quote");
    Refusal::of("tpm.gone")
}
