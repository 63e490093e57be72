//! Whom a service trusts: the environment's authority, but not the certificates that it has revoked since. Revocation
//! lists (RFC 5280 §5) are brought to services, as they come out, by anybody: the authority's signature counts.

use crate::{Error, Json, Peer, TlsError, tls};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::{Router, extract::State, routing::post};
use rustls::{
    pki_types::{CertificateRevocationListDer, pem::PemObject},
    server::danger::ClientCertVerifier,
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::{parse_x509_certificate, revocation_list::CertificateRevocationList};

/// Longest revocation list in bytes of PEM.
pub const MAX_LIST: usize = 192 * 1024;
/// Where lists are brought.
pub const REVOCATIONS: &str = "/v1/revocations";

/// The authority, and the newest of its lists that was seen.
#[derive(Debug)]
pub struct Trust {
    authority: String,
    newest: RwLock<Newest>,
}

#[derive(Debug, Clone)]
struct Newest {
    /// Authority and list.
    pem: Arc<str>,
    list: Option<Arc<[u8]>>,
    number: u64,
    /// What both say of a caller.
    verifier: Arc<dyn ClientCertVerifier>,
}

/// A list (PEM) for a service, or what it has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// The list, PEM.
    pub list: String,
}

/// The newest list that a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its number (RFC 5280 §5.2.3).
    pub number: u64,
}

impl Trust {
    /// Takes the authority's certificate (PEM), and its list if the text also holds one.
    pub fn new(pem: &str) -> Result<Self, TlsError> {
        let (authority, list) = tls::split(pem);
        let verifier = tls::client_verifier(authority)?;
        let authority = authority.to_owned();
        let newest = Newest { pem: authority.as_str().into(), list: None, number: 0, verifier };
        let trust = Self { authority, newest: RwLock::new(newest) };
        list.map(|list| trust.offer(list)).transpose()?;
        Ok(trust)
    }

    /// The authority's certificate and list (PEM), as everything in this crate takes it.
    pub fn pem(&self) -> Arc<str> {
        self.read().pem
    }

    /// The list (DER), if one was seen.
    pub fn list(&self) -> Option<Arc<[u8]>> {
        self.read().list
    }

    /// Takes a list (PEM) if the authority signed it and it is newer than the one at hand; gives the number of the
    /// newest.
    pub fn offer(&self, pem: &str) -> Result<u64, TlsError> {
        let (list, number) = self.check(pem).ok_or(TlsError::List)?;
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if number > newest.number {
            let text = format!("{}\n{pem}", self.authority);
            let verifier = tls::client_verifier(&text)?;
            *newest = Newest { pem: text.into(), list: Some(list.into()), number, verifier };
        }
        Ok(newest.number)
    }

    /// Judges callers by the newest list.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.read().verifier
    }

    fn read(&self) -> Newest {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(&self, pem: &str) -> Option<(Vec<u8>, u64)> {
        let der = Some(pem).filter(|pem| pem.len() <= MAX_LIST && pem.starts_with(tls::LIST))?;
        let der = CertificateRevocationListDer::from_pem_slice(der.as_bytes()).ok()?;
        let (_, list) = x509_parser::parse_x509_crl(&der).ok()?;
        let authorities = tls::read_chain(&self.authority).ok()?;
        authorities.iter().find(|authority| signed_by(authority, &list))?;
        let number = list.crl_number()?.to_u64_digits();
        let [number] = number.as_slice() else { return None };
        Some((der.to_vec(), *number))
    }
}

fn signed_by(authority: &[u8], list: &CertificateRevocationList<'_>) -> bool {
    let Ok((_, authority)) = parse_x509_certificate(authority) else { return false };
    let key = UnparsedPublicKey::new(&ED25519, &authority.public_key().subject_public_key.data);
    authority.subject().as_raw() == list.issuer().as_raw()
        && key.verify(list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok()
}

/// The call by which whoever is of the environment brings a list.
pub fn revocations(trust: Arc<Trust>) -> Router {
    Router::new().route(REVOCATIONS, post(offered)).with_state(trust)
}

async fn offered(
    State(trust): State<Arc<Trust>>,
    _: Peer,
    Json(Revocations { list }): Json<Revocations>,
) -> Result<Json<Known>, Error> {
    let wrong = |error: TlsError| Error::new(400, "revocation.list", error.to_string());
    Ok(Json(Known { number: trust.offer(&list).map_err(wrong)? }))
}
