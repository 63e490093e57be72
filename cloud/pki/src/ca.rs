//! X.509 certificates whose one name is an [`Identity`], and the list of those that are revoked (RFC 5280 §5).

use crate::{BACKDATED, Error, MAX_LIFETIME, MAX_REQUEST, params, read, read_key, serial, write_new};
use aws_lc_rs::signature::Ed25519KeyPair;
use ids::Identity;
use rcgen::{
    BasicConstraints, CertificateRevocationListParams, CertificateSigningRequestParams,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};
use time::OffsetDateTime;
use token::PublicKey;
use zeroize::Zeroizing;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
const AUTHORITY_NAME: &str = "Azote environment authority";
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// What precedes the key of an Ed25519 `SubjectPublicKeyInfo` (RFC 8410 §4).
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A certificate, and its number.
pub(crate) struct Certified {
    pub(crate) chain: String,
    pub(crate) serial: Vec<u8>,
}

/// An environment's authority.
pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    /// The same key, for what is not X.509.
    pair: Ed25519KeyPair,
}

impl Ca {
    /// Whether there is an authority in `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join(CERTIFICATE_FILE).exists()
    }

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
        let pair = pair(&key)?;
        Ok(Self { certificate, issuer: Issuer::new(params, key), pair })
    }

    /// Opens the authority in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let certificate = read(&dir.join(CERTIFICATE_FILE))?;
        let key = read_key(&dir.join(KEY_FILE))?;
        let pair = pair(&key)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { certificate, issuer, pair })
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
        let asked = asked(request)?;
        Ok(self.certify(&asked.public_key, identity, server, lifetime)?.chain)
    }

    /// The key of a request (PKCS#10, PEM).
    pub(crate) fn requested(&self, request: &str) -> Result<PublicKey, Error> {
        let key = asked(request)?.public_key.der_bytes().try_into().map(PublicKey);
        key.ok().filter(|key| !key.has_small_order()).ok_or(Error::Request)
    }

    /// Certifies the key of a host or a service, which can also serve.
    pub(crate) fn certify_server(
        &self,
        key: &PublicKey,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<Certified, Error> {
        let key = SubjectPublicKeyInfo::from_der(&[&ED25519[..], &key.0].concat())?;
        self.certify(&key, identity, true, lifetime)
    }

    /// A list (PEM) that revokes these certificates: serial number, and Unix time in seconds of the revocation.
    pub(crate) fn revocation_list(
        &self,
        number: u64,
        revoked: &[(&[u8], u64)],
        lifetime: Duration,
    ) -> Result<String, Error> {
        let now = OffsetDateTime::now_utc();
        let one = |(serial, since): &(&[u8], u64)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: i64::try_from(*since)
                .ok()
                .and_then(|since| OffsetDateTime::from_unix_timestamp(since).ok())
                .unwrap_or(now),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            next_update: now + lifetime,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    /// The authority's key, for what is not X.509.
    pub(crate) fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// Makes a key and a certificate for a person or a client, and writes both (PEM) to a new file that
    /// only its owner can read.
    pub fn client_identity(&self, identity: &Identity, lifetime: Duration, path: &Path) -> Result<(), Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = self.certify(&key, identity, false, lifetime)?.chain;
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
    ) -> Result<Certified, Error> {
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(Error::Lifetime);
        }
        let mut params = params(&identity.to_string(), lifetime);
        params.use_authority_key_identifier_extension = true;
        let serial = serial()?;
        params.serial_number = Some(serial.clone());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        let chain = params.signed_by(key, &self.issuer)?.pem();
        Ok(Certified { chain, serial: serial.to_bytes() })
    }
}

fn asked(request: &str) -> Result<CertificateSigningRequestParams, Error> {
    let asked = Some(request).filter(|request| request.len() <= MAX_REQUEST);
    let asked = asked.and_then(|request| CertificateSigningRequestParams::from_pem(request).ok());
    asked.filter(|asked| asked.public_key.algorithm() == &PKCS_ED25519).ok_or(Error::Request)
}

fn pair(key: &KeyPair) -> Result<Ed25519KeyPair, Error> {
    let der = Zeroizing::new(key.serialize_der());
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| Error::Sign)
}

#[cfg(test)]
mod tests;
