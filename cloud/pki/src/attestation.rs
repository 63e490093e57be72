//! The root under which instances prove what they are: documents of their attestation cards end in its certificate.
//! Apart from the environment's authority, because verifiers of such documents want P-384 throughout, and because
//! who trusts the one has no need to trust the other.

use crate::{Error, MAX_LIFETIME, MAX_REQUEST, params, read, read_key, write_new};
use ids::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SerialNumber,
};
use std::{path::Path, time::Duration};
use zeroize::Zeroizing;

const ROOT_NAME: &str = "azote.instance-attestation";
const ENVIRONMENT_NAME: &str = "environment.azote.instance-attestation";
const ROOT: [&str; 2] = ["attestation-root.pem", "attestation-root.key"];
const ENVIRONMENT: [&str; 2] = ["attestation.pem", "attestation.key"];
const ROOT_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);

/// The root, and the environment's authority below it, which certifies hosts.
pub struct Attestation {
    root: String,
    environment: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Attestation {
    /// Opens what is in `dir`, and makes what is not there yet: a root for 5 years, and an authority for 90 days, which is
    /// made anew when the old one is taken away. A lab keeps both keys in files; a production environment keeps the root's
    /// offline.
    pub fn open_or_create(dir: &Path) -> Result<Self, Error> {
        let root = make(dir, ROOT, ROOT_NAME, None, ROOT_LIFETIME, 3)?;
        let root_key = || read_key(&dir.join(ROOT[1]));
        let environment = if dir.join(ENVIRONMENT[0]).exists() {
            read(&dir.join(ENVIRONMENT[0]))?
        } else {
            let issuer = Issuer::from_ca_cert_pem(&root, root_key()?)?;
            make(dir, ENVIRONMENT, ENVIRONMENT_NAME, Some(&issuer), MAX_LIFETIME, 2)?
        };
        let issuer = Issuer::from_ca_cert_pem(&environment, read_key(&dir.join(ENVIRONMENT[1]))?)?;
        Ok(Self { root, environment, issuer })
    }

    /// The root's certificate (PEM), which everybody trusts who checks instances' documents.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Certifies the key of a request (PKCS#10, PEM, P-384) for `host`, whatever the request asks for, to certify
    /// instances. Gives the whole chain (PEM), host first and root last.
    pub fn issue(&self, request: &str, host: &HostId, lifetime: Duration) -> Result<String, Error> {
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(Error::Lifetime);
        }
        let asked = Some(request).filter(|request| request.len() <= MAX_REQUEST);
        let asked = asked.and_then(|request| CertificateSigningRequestParams::from_pem(request).ok());
        let asked = asked.filter(|asked| asked.public_key.algorithm() == &PKCS_ECDSA_P384_SHA384);
        let params = authority(&format!("{host}.azote"), lifetime, 1)?;
        let certificate =
            params.signed_by(&asked.ok_or(Error::AttestationRequest)?.public_key, &self.issuer)?;
        Ok([&certificate.pem(), &self.environment, &self.root].map(String::as_str).concat())
    }
}

/// Makes a key and its certificate unless they are there. A key alone is what a crash in here leaves.
fn make(
    dir: &Path,
    [certificate, key]: [&str; 2],
    name: &str,
    issuer: Option<&Issuer<'_, KeyPair>>,
    lifetime: Duration,
    below: u8,
) -> Result<String, Error> {
    let (certificate, key_path) = (dir.join(certificate), dir.join(key));
    if certificate.exists() {
        return read(&certificate);
    }
    let key = if key_path.exists() {
        read_key(&key_path)?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        write_new(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        key
    };
    let params = authority(name, lifetime, below)?;
    let pem = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    }?;
    let pem = pem.pem();
    write_new(&certificate, pem.as_bytes())?;
    Ok(pem)
}

/// An authority with at most `below` others below it.
fn authority(name: &str, lifetime: Duration, below: u8) -> Result<CertificateParams, Error> {
    let mut params = params("", lifetime);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Azote");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    Ok(params)
}
