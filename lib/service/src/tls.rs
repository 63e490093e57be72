use crate::{Key, KeyError, Trust};
use ids::Identity;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
        pem::PemObject,
    },
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use std::{
    io,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};
use zeroize::Zeroizing;

pub(crate) const MAX_PEM: usize = 32 * 1024;
/// How a revocation list begins, which may follow the authority's certificate.
pub(crate) const LIST: &str = "-----BEGIN X509 CRL-----";
const MAX_CHAIN: usize = 4;
const ED25519_OID: &str = "1.3.101.112";
const ED25519_KEY: usize = 32;
/// Every server of an environment has this name; who it is, its URI says.
const SERVER_NAME: &str = "localhost";

/// What to do about a revocation list that has ended.
pub(crate) const OUTDATED: &str =
    "nobody is trusted until the authority brings the next one (`azote authority run`)";

/// Why certificates or keys are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, none in it, or too much of it.
    #[error("want 1 to {MAX_CHAIN} certificates in PEM, at most {MAX_PEM} bytes")]
    Pem,
    /// The certificate does not name one identity, or not with an Ed25519 key.
    #[error("the certificate is not of this environment: it names no identity")]
    Identity,
    /// The chain does not lead to the environment's authority, or not now, or not for this use.
    #[error("the certificate is not valid: {0}")]
    Chain(rustls::Error),
    /// The authority's certificate is of no use.
    #[error("the authority's certificate is of no use: {0}")]
    Authority(String),
    /// A revocation list is of no use.
    #[error("this is no revocation list of the environment's authority")]
    List,
    /// The revocation list at hand has ended.
    #[error("the revocation list at hand has ended: {OUTDATED}")]
    Outdated,
    /// The private key is of no use.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file of a client identity.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        if is_outdated(&error) { Self::Outdated } else { Self::Chain(error) }
    }
}

fn is_outdated(error: &rustls::Error) -> bool {
    use CertificateError::{ExpiredRevocationList, ExpiredRevocationListContext};
    let rustls::Error::InvalidCertificate(certificate) = error else { return false };
    matches!(certificate, ExpiredRevocationList | ExpiredRevocationListContext { .. })
}

/// Whether a connection failed because the revocation list at hand has ended: somewhere below `error` the TLS library
/// says so.
pub(crate) fn by_outdated_list(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |cause| cause.source()).any(|cause| {
        // What an I/O error holds is not its source.
        let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let here = cause.downcast_ref::<rustls::Error>().is_some_and(is_outdated);
        here || held.is_some_and(|held| by_outdated_list(held))
    })
}

/// A certificate chain and its private key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
}

impl Credentials {
    /// A chain in PEM, the holder's certificate first, and its key.
    pub fn new(chain_pem: &str, key: Key) -> Result<Self, TlsError> {
        Ok(Self { chain: read_chain(chain_pem)?, key })
    }

    /// Reads a file with a PKCS#8 key and a certificate chain in PEM, as `pki` writes it for people.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let file = |source| TlsError::File { path: path.display().to_string(), source };
        let pem = Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::Pem)?;
        let key = Key::from_pkcs8(der.secret_pkcs8_der())?;
        Self::new(&pem, key)
    }

    /// The key, to sign with as this identity.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Who this is.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Ok(self.chain.first().and_then(read_identity).ok_or(TlsError::Identity)?.identity)
    }

    /// Until when the certificate is valid, Unix time in seconds; 0 if it says nothing that is understood.
    pub fn ends(&self) -> u64 {
        self.chain.first().and_then(read_identity).map_or(0, |certified| certified.not_after)
    }

    fn resolver(&self) -> Result<Arc<SingleCertAndKey>, TlsError> {
        Ok(Arc::new(SingleCertAndKey::from(self.certified()?)))
    }

    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let der = self.key.pkcs8();
        let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice()))?;
        let certified = CertifiedKey::new(self.chain.clone(), key);
        certified.keys_match()?;
        Ok(certified)
    }
}

/// The certificate that a server shows. Another can take its place while it serves.
#[derive(Debug)]
pub struct Served(RwLock<Arc<CertifiedKey>>);

impl Served {
    /// Shows this one at first.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(credentials.certified()?)))))
    }

    /// From the next handshake on shows this one.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let next = Arc::new(credentials.certified()?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Who it is.
    pub identity: Identity,
    /// Their Ed25519 public key.
    pub public_key: [u8; ED25519_KEY],
    /// The last second in which the certificate is valid, Unix time.
    pub not_after: u64,
}

/// Who gets past the handshake of a server. The authority's certificate is in PEM; a revocation list of its may follow,
/// here and wherever this crate takes one: then nobody is trusted whom it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers<'a> {
    /// Everybody; no certificate is asked for.
    Anyone,
    /// Who shows a certificate of this authority.
    Certified(&'a str),
    /// Who shows a certificate of this authority, and who shows none: the handlers must know them otherwise.
    CertifiedOrNot(&'a str),
}

/// TLS 1.3 for a server. Sessions are not resumed: each connection checks its certificates.
pub fn server_config(credentials: &Credentials, callers: Callers<'_>) -> Result<ServerConfig, TlsError> {
    server_config_of(Served::new(credentials)?, callers)
}

/// The same for a server whose certificate will be replaced.
pub fn server_config_of(served: Arc<Served>, callers: Callers<'_>) -> Result<ServerConfig, TlsError> {
    let (ca, or_none) = match callers {
        Callers::Anyone => return Ok(server(served, None)?),
        Callers::Certified(ca) => (ca, false),
        Callers::CertifiedOrNot(ca) => (ca, true),
    };
    server_config_trusting(served, Arc::new(Trust::new(ca)?), or_none)
}

/// The same for a server that hears of revocations while it serves: who connects is held to the newest list that
/// `trust` was offered. With `or_none` also who shows no certificate gets past the handshake.
pub fn server_config_trusting(
    served: Arc<Served>,
    trust: Arc<Trust>,
    or_none: bool,
) -> Result<ServerConfig, TlsError> {
    let hints = trust.verifier().root_hint_subjects().to_vec();
    Ok(server(served, Some(Arc::new(Newest { trust, hints, or_none })))?)
}

fn server(served: Arc<Served>, callers: Option<Arc<Newest>>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let builder = match callers {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(served);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// TLS 1.3 for a client that talks to exactly `server`, and shows `me` if asked.
pub fn client_config(
    ca: &str,
    server: &Identity,
    me: Option<&Credentials>,
) -> Result<ClientConfig, TlsError> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider())
        .with_crls(lists(ca)?)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let verifier = Arc::new(ExactServer { chain, server: server.clone() });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match me {
        Some(me) => builder.with_client_cert_resolver(me.resolver()?),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Checks a certificate chain (PEM, holder first) against the environment's authority at `now` (Unix
/// seconds), and says whose it is.
pub fn certified_by(ca: &str, chain_pem: &str, now: u64) -> Result<Certified, TlsError> {
    let chain = read_chain(chain_pem)?;
    let (holder, others) = chain.split_first().ok_or(TlsError::Pem)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    client_verifier(ca)?.verify_client_cert(holder, others, now)?;
    read_identity(holder).ok_or(TlsError::Identity)
}

/// The one identity that a certificate names. The certificate must have been verified.
pub(crate) fn read_identity(certificate: &CertificateDer<'_>) -> Option<Certified> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return None };
    let key = certificate.public_key();
    let ed25519 = key.algorithm.algorithm.to_id_string() == ED25519_OID;
    let public_key = key.subject_public_key.data.as_ref().try_into().ok().filter(|_| ed25519)?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(Certified { identity: uri.parse().ok()?, public_key, not_after })
}

/// Until when the first certificate of a chain (PEM) is valid, Unix time in seconds. Nobody has checked it.
pub fn ends(chain_pem: &str) -> Option<u64> {
    Some(read_identity(read_chain(chain_pem).ok()?.first()?)?.not_after)
}

/// Until when the revocation list of a text (PEM) is good, Unix time in seconds. Nobody has checked it.
pub fn list_ends(pem: &str) -> Option<u64> {
    let list = CertificateRevocationListDer::from_pem_slice(split(pem).1?.as_bytes()).ok()?;
    let (_, list) = x509_parser::parse_x509_crl(&list).ok()?;
    u64::try_from(list.next_update()?.timestamp()).ok()
}

/// The Ed25519 key of an authority (PEM).
pub fn authority_key(pem: &str) -> Option<[u8; ED25519_KEY]> {
    let chain = read_chain(split(pem).0).ok()?;
    let (_, certificate) = parse_x509_certificate(chain.first()?).ok()?;
    let key = certificate.public_key();
    let ed25519 = key.algorithm.algorithm.to_id_string() == ED25519_OID;
    key.subject_public_key.data.as_ref().try_into().ok().filter(|_| ed25519)
}

pub(crate) fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if pem.len() > MAX_PEM {
        return Err(TlsError::Pem);
    }
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1).collect();
    chain.ok().filter(|chain| (1..=MAX_CHAIN).contains(&chain.len())).ok_or(TlsError::Pem)
}

fn roots(ca: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(split(ca).0)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

/// The authority's certificate, and the revocation list that may follow.
pub(crate) fn split(ca: &str) -> (&str, Option<&str>) {
    ca.find(LIST).and_then(|at| ca.split_at_checked(at)).map_or((ca, None), |(ca, list)| (ca, Some(list)))
}

fn lists(ca: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let (_, Some(list)) = split(ca) else { return Ok(Vec::new()) };
    if list.len() > crate::trust::MAX_LIST {
        return Err(TlsError::List);
    }
    Ok(vec![CertificateRevocationListDer::from_pem_slice(list.as_bytes()).map_err(|_| TlsError::List)?])
}

/// Who is of an authority, by the list that may follow it, which must not have ended.
pub(crate) fn client_verifier(ca: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider()).with_crls(lists(ca)?);
    let verifier = builder.enforce_revocation_expiration().build();
    verifier.map_err(|error| TlsError::Authority(error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes callers by the newest revocation list.
#[derive(Debug)]
struct Newest {
    trust: Arc<Trust>,
    hints: Vec<DistinguishedName>,
    or_none: bool,
}

impl ClientCertVerifier for Newest {
    fn client_auth_mandatory(&self) -> bool {
        !self.or_none
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        holder: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verifier().verify_client_cert(holder, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verifier().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verifier().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.verifier().supported_verify_schemes()
    }
}

/// Takes a chain to the environment's authority only if it names the very server that was meant:
/// otherwise every server of the environment could play any other.
#[derive(Debug)]
struct ExactServer {
    chain: Arc<WebPkiServerVerifier>,
    server: Identity,
}

impl ServerCertVerifier for ExactServer {
    fn verify_server_cert(
        &self,
        holder: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = ServerName::try_from(SERVER_NAME).map_err(|_| CertificateError::NotValidForName)?;
        let verified = self.chain.verify_server_cert(holder, others, &name, ocsp, now)?;
        match read_identity(holder) {
            Some(certified) if certified.identity == self.server => Ok(verified),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
