//! The manufacturer of TPMs, whose certificate says of an endorsement key that it lies in one of them (TCG EK
//! Credential Profile for TPM 2.0, §3.2). In a lab it stands in for the chip's maker; a real environment trusts the
//! makers of the TPMs that it buys.

use crate::{Error, params, read, read_key, serial, write_new};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use std::{path::Path, time::Duration};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use zeroize::Zeroizing;

const CERTIFICATE_FILE: &str = "manufacturer.pem";
const KEY_FILE: &str = "manufacturer.key";
const NAME: &str = "Azote lab TPM manufacturer";
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// `tcg-kp-EKCertificate`, 2.23.133.8.1: in numbers, and as DER has them.
const EK_CERTIFICATE: [u64; 5] = [2, 23, 133, 8, 1];
const EK_CERTIFICATE_DER: [u8; 5] = [0x67, 0x81, 0x05, 0x08, 0x01];
/// What precedes the point of a P-256 `SubjectPublicKeyInfo` (RFC 5480 §2).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A maker of TPMs.
pub struct Manufacturer {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Manufacturer {
    /// Opens the manufacturer in `dir`, and makes one if there is none.
    pub fn open_or_create(dir: &Path) -> Result<Self, Error> {
        let (key_path, path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        if !path.exists() {
            let left = key_path.exists();
            let key =
                if left { read_key(&key_path)? } else { KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)? };
            let mut params = params(NAME, LIFETIME);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let certificate = params.self_signed(&key)?.pem();
            if !left {
                write_new(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
            }
            write_new(&path, certificate.as_bytes())?;
        }
        let certificate = read(&path)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, read_key(&key_path)?)?;
        Ok(Self { certificate, issuer })
    }

    /// The certificate (PEM), which authorities trust who take this manufacturer's TPMs.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Says that an endorsement key (`TPM2B_PUBLIC`) lies in a TPM of this manufacturer: X.509 in DER, for as long
    /// as the TPM may live.
    pub fn certify(&self, ek: &[u8]) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        params.not_after = params.not_before + LIFETIME;
        params.serial_number = Some(serial()?);
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE.to_vec())];
        let key = SubjectPublicKeyInfo::from_der(&public_key(ek).ok_or(Error::EndorsementKey)?)?;
        Ok(params.signed_by(&key, &self.issuer)?.der().to_vec())
    }
}

/// Whether one of these manufacturers (PEM) says that `ek` (`TPM2B_PUBLIC`) lies in a TPM of its making.
pub(crate) fn vouches(manufacturers: &str, certificate: &[u8], ek: &[u8], now: u64) -> Result<(), Error> {
    let no = || Error::EndorsementKey;
    let key = public_key(ek).ok_or_else(no)?;
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(manufacturers.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| no())?;
    let anchors: Vec<_> = authorities.iter().filter_map(|it| anchor_from_trusted_cert(it).ok()).collect();
    let certificate = CertificateDer::from(certificate);
    let certificate = EndEntityCert::try_from(&certificate).map_err(|_| no())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, KeyUsage::required(&EK_CERTIFICATE_DER));
    certificate.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None).map_err(|_| no())?;
    if certificate.subject_public_key_info().as_ref() == key { Ok(()) } else { Err(no()) }
}

/// The `SubjectPublicKeyInfo` of an endorsement key.
fn public_key(ek: &[u8]) -> Option<Vec<u8>> {
    Some([&P256[..], &tpm::endorsement_point(ek).ok()?].concat())
}
