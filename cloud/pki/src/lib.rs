//! The authority of one environment: it gives hosts, services, tenants and operators X.509 certificates
//! whose one name is an [`Identity`]. It takes no name from a request, knows no rights, keeps no list of
//! what it issued, and revokes nothing: certificates are short-lived. It stands at the root of trust of an
//! environment; what it reads from others is certificate requests.
//!
//! The authority's key is a file that only its owner can read. That is enough for a lab; a production
//! environment keeps it offline or in a hardware module.
#![forbid(unsafe_code)]

mod attestation;

pub use attestation::Attestation;

use ids::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Longest life of a certificate that the authority issues.
pub const MAX_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Longest certificate request in bytes of PEM.
pub const MAX_REQUEST: usize = 8 * 1024;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
const AUTHORITY_NAME: &str = "Azote environment authority";
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// Clocks may be apart by this much.
const BACKDATED: Duration = Duration::from_secs(60);

/// Why no certificate was issued.
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

/// An environment's authority.
pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes a new authority in `dir`, which must exist and hold none. A key without a certificate is what a
    /// crash in here leaves; it has certified nothing, and is taken.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let (key_path, certificate_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let left = !certificate_path.exists() && key_path.exists();
        let key = if left { read_key(&key_path)? } else { KeyPair::generate_for(&PKCS_ED25519)? };
        let mut params = params(AUTHORITY_NAME, AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        if !left {
            write_new(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        }
        write_new(&certificate_path, certificate.as_bytes())?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Opens the authority in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let certificate = read(&dir.join(CERTIFICATE_FILE))?;
        let key = read_key(&dir.join(KEY_FILE))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's certificate (PEM), which everybody in the environment trusts.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Certifies the key of a request (PKCS#10, PEM) for `identity`, whatever the request asks for. With
    /// `server` the holder can also serve, on this machine. Gives the chain (PEM), holder first; the
    /// authority's own certificate is not in it.
    pub fn issue(
        &self,
        request: &str,
        identity: &Identity,
        server: bool,
        lifetime: Duration,
    ) -> Result<String, Error> {
        let asked = Some(request).filter(|request| request.len() <= MAX_REQUEST);
        let asked = asked.and_then(|request| CertificateSigningRequestParams::from_pem(request).ok());
        let asked = asked.filter(|asked| asked.public_key.algorithm() == &PKCS_ED25519);
        self.certify(&asked.ok_or(Error::Request)?.public_key, identity, server, lifetime)
    }

    /// Makes a key and a certificate for a person or a client, and writes both (PEM) to a new file that
    /// only its owner can read.
    pub fn client_identity(&self, identity: &Identity, lifetime: Duration, path: &Path) -> Result<(), Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = self.certify(&key, identity, false, lifetime)?;
        let private = Zeroizing::new(key.serialize_pem());
        // With its room from the start: growing would leave a copy of the key in memory that nobody wipes.
        let mut pem = Zeroizing::new(String::with_capacity(private.len() + certificate.len()));
        pem.push_str(&private);
        pem.push_str(&certificate);
        write_new(path, pem.as_bytes())
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        server: bool,
        lifetime: Duration,
    ) -> Result<String, Error> {
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(Error::Lifetime);
        }
        let mut params = params(&identity.to_string(), lifetime);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
    params
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    Ok(KeyPair::from_pem(&Zeroizing::new(read(path)?))?)
}

/// The file is there whole and durable, or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let write = || {
        // What a crash has left of it goes: it may be another's to read.
        let _ = std::fs::remove_file(&unfinished);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Unlike a rename, a link replaces nothing.
        let linked = std::fs::hard_link(&unfinished, path);
        std::fs::remove_file(&unfinished)?;
        linked?;
        path.parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
