//! A service's identity key: born here, sealed by the TPM, certified from outside.

use crate::{
    files::{write_atomic, write_new_atomic},
    process::Home,
};
use aws_lc_rs::{
    encoding::AsBigEndian,
    signature::{Ed25519KeyPair, KeyPair},
};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ED25519};
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::{io, path::Path};
use tpm::{Name, Policy, Tpm};
use zeroize::Zeroizing;

const IDENTITY_FILE: &str = "identity.sealed";
const SEED: usize = 32;
/// The name of the TPM's endorsement key.
const TPM_FILE: &str = "tpm.name";
/// Longest sealed file that is read, in bytes.
const MAX_SEALED: u64 = 128 * 1024;

/// Why a key is not there.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The cryptographic library refused.
    #[error("the key cannot be used: {0}")]
    Crypto(&'static str),
    /// The TPM refused: wrong TPM, or the blob is damaged.
    #[error("the TPM does not seal or open the key: {0}")]
    Tpm(#[from] tpm::Error),
    /// The sealed file.
    #[error("{path}: {source}; run `enrol` first, and give the right --state")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No certificate request could be made.
    #[error("no certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

/// An Ed25519 identity or signing key in memory.
pub struct Key {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; SEED]>,
}

impl Key {
    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; SEED]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| KeyError::Crypto("no random bytes"))?;
        Self::from_seed(&*seed)
    }

    /// The key of a 32-byte seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let given: &[u8; SEED] = seed.try_into().map_err(|_| KeyError::Crypto("not 32 bytes"))?;
        let mut seed = Zeroizing::new([0; SEED]);
        seed.copy_from_slice(given);
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| KeyError::Crypto("bad seed"))?;
        Ok(Self { pair, seed })
    }

    /// The key of a PKCS#8 document.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Crypto("not Ed25519 in PKCS#8"))?;
        let seed = pair.seed().and_then(|seed| seed.as_be_bytes());
        Self::from_seed(seed.map_err(|_| KeyError::Crypto("no seed"))?.as_ref())
    }

    /// For signing.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// The public key, 32 bytes.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        public
    }

    /// The private seed.
    pub fn seed(&self) -> &[u8; SEED] {
        &self.seed
    }

    /// PKCS#8 version 1 (RFC 8410 §7), for the TLS library.
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        const PREFIX: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + SEED));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(&*self.seed);
        der
    }

    /// A certificate request (PKCS#10, PEM) that proves possession of the key and asks for no name: names
    /// are the authority's matter.
    pub fn request(&self) -> Result<String, KeyError> {
        let der = self.pkcs8();
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(der.as_slice()),
            &PKCS_ED25519,
        )?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&pair)?.pem()?)
    }
}

/// Seals `secret` by the TPM into a file that must not exist; durable on return.
pub fn seal_to(path: &Path, tpm: &mut Tpm, secret: &[u8]) -> Result<(), KeyError> {
    let blob = tpm.seal(secret, Policy::None)?;
    write_new_atomic(path, &blob)
        .map_err(|source| KeyError::File { path: path.display().to_string(), source })
}

/// Opens what [`seal_to`] wrote.
pub fn unseal_from(path: &Path, tpm: &mut Tpm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file = |source| KeyError::File { path: path.display().to_string(), source };
    if std::fs::metadata(path).map_err(file)?.len() > MAX_SEALED {
        return Err(file(io::ErrorKind::InvalidData.into()));
    }
    Ok(tpm.unseal(&std::fs::read(path).map_err(file)?)?)
}

/// Which TPM belongs to a service.
impl Home {
    /// The name of its endorsement key, none if it is not known yet.
    pub fn known_tpm(&self) -> Result<Option<Name>, KeyError> {
        let path = self.state.join(TPM_FILE);
        let file = |source| KeyError::File { path: path.display().to_string(), source };
        match std::fs::read(&path) {
            Ok(name) => name.try_into().map(Some).map_err(|_| file(io::ErrorKind::InvalidData.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file(error)),
        }
    }

    /// Remembers it; durable on return.
    pub fn remember_tpm(&self, name: &Name) -> Result<(), KeyError> {
        let path = self.state.join(TPM_FILE);
        write_atomic(&path, name)
            .map_err(|source| KeyError::File { path: path.display().to_string(), source })
    }
}

/// Makes the identity key of a service, seals it into `state`, and gives the certificate request (PEM). If
/// there is a key already it stays, and the request is for that one.
pub fn enrol(state: &Path, tpm: &mut Tpm) -> Result<String, KeyError> {
    let path = state.join(IDENTITY_FILE);
    if !path.exists() {
        seal_to(&path, tpm, Key::generate()?.seed())?;
    }
    load_key(state, tpm)?.request()
}

/// Opens the identity key that [`enrol`] made.
pub fn load_key(state: &Path, tpm: &mut Tpm) -> Result<Key, KeyError> {
    Key::from_seed(&unseal_from(&state.join(IDENTITY_FILE), tpm)?)
}
