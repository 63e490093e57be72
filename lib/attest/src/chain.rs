//! The host's certificate: RFC 5280 path validation by the library, from the policy's one authority.

use crate::{Code, Refusal};
use ids::{HostId, Identity};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime, pem::PemObject};
use std::time::Duration;
use token::PublicKey;
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, anchor_from_trusted_cert, aws_lc_rs::ED25519,
};

/// What a refusal calls it.
const NAME: &str = "host certificate";
const LIST: &str = "revocation list";
const MOST: usize = 4;
/// Longest revocation list in bytes of PEM.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// What precedes the key of an Ed25519 `SubjectPublicKeyInfo` (RFC 8410 §4), whole and without its outer header.
pub(crate) const WHOLE: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The authority of an environment.
pub(crate) struct Authority {
    anchor: TrustAnchor<'static>,
    pub(crate) key: PublicKey,
}

impl Authority {
    /// Reads its one certificate (PEM). `None` if it is none, or not with an Ed25519 key.
    pub(crate) fn read(pem: &str) -> Option<Self> {
        let chain = certificates(pem)?;
        let [certificate] = chain.as_slice() else { return None };
        let anchor = anchor_from_trusted_cert(certificate).ok()?.to_owned();
        let key = anchor.subject_public_key_info.strip_prefix(&WHOLE[2..])?.try_into().ok()?;
        Some(Self { anchor, key: PublicKey(key) })
    }

    /// The host that a chain (PEM, its own certificate first) certifies, and its identity key.
    pub(crate) fn host(
        &self,
        chain: &str,
        crl: Option<&str>,
        now: u64,
    ) -> Result<(HostId, PublicKey), Refusal> {
        let chain = certificates(chain).ok_or_else(|| Code::Certificate.at(NAME))?;
        let (holder, others) = chain.split_first().ok_or_else(|| Code::Certificate.at(NAME))?;
        let certificate = EndEntityCert::try_from(holder).map_err(|error| refused(&error))?;
        let crl = crl.map(revocations).transpose()?;
        let crls: Vec<&CertRevocationList<'_>> = crl.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok();
        let revocation = revocation.map(|it| it.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let anchors = std::slice::from_ref(&self.anchor);
        let usage = KeyUsage::client_auth();
        certificate
            .verify_for_usage(&[ED25519], anchors, others, now, usage, revocation, None)
            .map_err(|error| refused(&error))?;
        let mut names = certificate.valid_uri_names();
        let key = certificate.subject_public_key_info();
        let key = key.strip_prefix(&WHOLE).and_then(|key| key.try_into().ok()).map(PublicKey);
        match (names.next().map(str::parse), names.next(), key) {
            (Some(Ok(Identity::Host(host))), None, Some(key)) => Ok((host, key)),
            _ => Err(Code::Certificate.at(NAME)),
        }
    }
}

fn revocations(pem: &str) -> Result<CertRevocationList<'static>, Refusal> {
    let der = Some(pem.as_bytes()).filter(|pem| pem.len() <= MAX_LIST);
    let der = der.and_then(|pem| CertificateRevocationListDer::from_pem_slice(pem).ok());
    let list = der.and_then(|der| OwnedCertRevocationList::from_der(&der).ok());
    list.map(CertRevocationList::from).ok_or_else(|| Code::Certificate.at(LIST))
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MOST + 1).collect();
    all.ok().filter(|all| (1..=MOST).contains(&all.len()))
}

fn refused(error: &Error) -> Refusal {
    match error {
        Error::CertRevoked => Code::Revoked.at(NAME),
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => Code::Expired.at(NAME),
        Error::CrlExpired { .. } => Code::Expired.at(LIST),
        _ => Code::Certificate.at(NAME),
    }
}
