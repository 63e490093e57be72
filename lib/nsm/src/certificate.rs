//! Keys, and who certifies whom.

use aws_lc_rs::{
    agreement,
    hkdf::{HKDF_SHA384, KeyType, Salt},
    rand::SystemRandom,
    signature::{
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        KeyPair as _,
    },
};
use ids::{HostId, InstanceId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};
use seal::Secret;
use std::{fmt, time::Duration};
use time::OffsetDateTime;
use x509_parser::{parse_x509_certificate, pem::Pem, prelude::X509Certificate};
use zeroize::Zeroizing;

/// Longest certificate in bytes of DER: verifiers take no longer one.
pub const MAX_CERTIFICATE: usize = 1024;
/// Most certificates above a document's own.
pub const MAX_CHAIN: usize = 6;
/// How long an instance's certificate lives.
pub const INSTANCE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a document's certificate lives.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(3 * 60 * 60);

/// Longest text with certificates in bytes.
const MAX_PEM: usize = 16 * 1024;
/// Clocks may be apart by this much.
const BACKDATED: Duration = Duration::from_secs(3);
const DERIVATION: &[u8] = b"azote/attestation-key/1";
const DOCUMENTS: &[u8] = b"azote/document-key/1";
/// Bytes of the serial number of a document's certificate.
const SERIAL: usize = 16;
const SCALAR: usize = 48;
const RAW_KEY: usize = 97;

/// Why certificates or a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not certificates, or too many, or too long.
    #[error("not a chain of 1 to {MAX_CHAIN} certificates of at most {MAX_CERTIFICATE} bytes each")]
    Malformed,
    /// The certificate is for another key.
    #[error("the certificate is for another key: have the one that is here certified")]
    Key,
    /// The library refused.
    #[error("the cryptographic library refused")]
    Crypto,
    /// There is no locked memory for a key.
    #[error("no locked memory for a key: raise the limit on locked memory (ulimit -l)")]
    Memory,
}

impl CertificateError {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "attestation.chain",
            Self::Key => "attestation.key",
            Self::Crypto => "attestation.crypto",
            Self::Memory => "attestation.memory",
        }
    }
}

/// The name of a host in certificates.
pub fn host_name(host: &HostId) -> String {
    format!("{host}.azote")
}

/// A P-384 key that signs certificates.
struct Key(EcdsaKeyPair);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P384_SHA384
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature.map(|bytes| bytes.as_ref().to_vec()).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

/// Somebody else's P-384 key: an uncompressed point.
struct Public<'a>(&'a [u8]);

impl PublicKeyData for Public<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P384_SHA384
    }
}

/// Certificates, holder first, root last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<Vec<u8>>);

impl Chain {
    /// Reads certificates in PEM.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let text = Some(text).filter(|text| text.len() <= MAX_PEM).ok_or(CertificateError::Malformed)?;
        let pems: Result<Vec<_>, _> = Pem::iter_from_buffer(text.as_bytes()).take(MAX_CHAIN + 1).collect();
        Self::new(
            pems.map_err(|_| CertificateError::Malformed)?.into_iter().map(|pem| pem.contents).collect(),
        )
    }

    /// Takes certificates in DER.
    pub fn new(certificates: Vec<Vec<u8>>) -> Result<Self, CertificateError> {
        let fits = (1..=MAX_CHAIN).contains(&certificates.len())
            && certificates.iter().all(|der| der.len() <= MAX_CERTIFICATE && parse(der).is_some());
        if fits { Ok(Self(certificates)) } else { Err(CertificateError::Malformed) }
    }

    /// The certificates, holder first.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// When its first certificate ends, in seconds since 1970.
    pub fn ends(&self) -> u64 {
        self.holder().map_or(0, |holder| u64::try_from(holder.validity().not_after.timestamp()).unwrap_or(0))
    }

    fn holder(&self) -> Option<X509Certificate<'_>> {
        self.0.first().and_then(|der| parse(der))
    }

    fn is_for(&self, public_key: &[u8]) -> bool {
        self.holder().is_some_and(|holder| holder.public_key().subject_public_key.data.as_ref() == public_key)
    }

    /// `key` with the name that the first certificate gives it.
    fn issuer<'a>(&self, key: &'a Key) -> Result<rcgen::Issuer<'static, &'a Key>, CertificateError> {
        let der = self.0.first().ok_or(CertificateError::Malformed)?;
        rcgen::Issuer::from_ca_cert_der(&der.as_slice().into(), key).map_err(|_| CertificateError::Malformed)
    }
}

pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    parse_x509_certificate(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn params(name: String, serial: Vec<u8>, now: Duration, lifetime: Duration) -> Option<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Azote");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(now.as_secs()).ok()?).ok()?;
    params.not_before = now.checked_sub(BACKDATED.try_into().ok()?)?;
    params.not_after = now.checked_add(lifetime.try_into().ok()?)?;
    Some(params)
}

/// A private key that belongs to `secret` and `info`. Of all 48-byte numbers, fewer than one in 2^190 is none of the
/// curve's: that secret could not be used.
fn derive(secret: &[u8], info: &[&[u8]]) -> Result<Zeroizing<[u8; SCALAR]>, CertificateError> {
    struct Scalar;
    impl KeyType for Scalar {
        fn len(&self) -> usize {
            SCALAR
        }
    }
    let pseudo_random = Salt::new(HKDF_SHA384, &[]).extract(secret);
    let mut scalar = Zeroizing::new([0; SCALAR]);
    let expanded = pseudo_random.expand(info, Scalar);
    expanded.and_then(|okm| okm.fill(&mut *scalar)).map_err(|_| CertificateError::Crypto)?;
    Ok(scalar)
}

/// The public half of a private key: an uncompressed point of 97 bytes.
fn public_of(scalar: &[u8; SCALAR]) -> Result<Vec<u8>, CertificateError> {
    let private = agreement::PrivateKey::from_private_key(&agreement::ECDH_P384, scalar);
    let public = private.map_err(|_| CertificateError::Crypto)?.compute_public_key();
    public.map(|public| public.as_ref().to_vec()).map_err(|_| CertificateError::Crypto)
}

/// The library's form of a key, which wipes itself.
fn pair(
    algorithm: &'static EcdsaSigningAlgorithm,
    scalar: &[u8; SCALAR],
    public: &[u8],
) -> Result<EcdsaKeyPair, CertificateError> {
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, public)
        .map_err(|_| CertificateError::Crypto)
}

/// The host's key, which certifies the instances that run there. It is derived from the host's identity, so it is
/// sealed with it and gone with it.
pub struct HostKey(Key);

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey")
    }
}

impl HostKey {
    /// The key that belongs to an identity's private seed.
    pub fn derive(seed: &[u8; 32]) -> Result<Self, CertificateError> {
        let scalar = derive(seed, &[DERIVATION])?;
        pair(&ECDSA_P384_SHA384_ASN1_SIGNING, &scalar, &public_of(&scalar)?).map(|pair| Self(Key(pair)))
    }

    /// A request (PKCS#10, PEM) that proves possession of the key.
    pub fn request(&self) -> Result<String, CertificateError> {
        let request = CertificateParams::default().serialize_request(&self.0);
        request.and_then(|request| request.pem()).map_err(|_| CertificateError::Crypto)
    }

    /// Whether `chain` certifies this key.
    pub fn is_certified_by(&self, chain: &Chain) -> bool {
        chain.is_for(self.0.der_bytes())
    }

    /// Certifies a card's key for `instance`, from `now` on (since 1970): the chain of the card, instance first.
    /// `chain` is the host's own.
    pub fn certify(
        &self,
        chain: &Chain,
        instance: &InstanceId,
        card_key: &[u8],
        now: Duration,
    ) -> Result<Chain, CertificateError> {
        if !self.is_certified_by(chain) {
            return Err(CertificateError::Key);
        }
        if card_key.len() != RAW_KEY {
            return Err(CertificateError::Malformed);
        }
        let mut serial = vec![0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| CertificateError::Crypto)?;
        let params = params(format!("{instance}.azote"), serial, now, INSTANCE_LIFETIME);
        let mut params = params.ok_or(CertificateError::Crypto)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&Public(card_key), &chain.issuer(&self.0)?);
        let der = certificate.map_err(|_| CertificateError::Crypto)?.der().to_vec();
        Chain::new([der].into_iter().chain(chain.0.iter().cloned()).collect())
    }
}

/// The attestation card's key, born in it, which certifies documents' keys. It lies in locked memory; the library has
/// it only while it signs. Documents' keys are derived from it for each signature and kept nowhere.
pub struct CardKey {
    secret: Secret<SCALAR>,
    public: Vec<u8>,
}

impl CardKey {
    /// A new key. Of all 48-byte numbers, fewer than one in 2^190 is none of the curve's, and refused.
    pub fn generate() -> Result<Self, CertificateError> {
        let mut secret = Secret::zeroed().map_err(|_| CertificateError::Memory)?;
        aws_lc_rs::rand::fill(secret.expose_mut()).map_err(|_| CertificateError::Crypto)?;
        Ok(Self { public: public_of(secret.expose())?, secret })
    }

    /// The public half: an uncompressed point of 97 bytes.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    fn key(&self) -> Option<Key> {
        pair(&ECDSA_P384_SHA384_ASN1_SIGNING, self.secret.expose(), &self.public).ok().map(Key)
    }

    /// The private key of the documents that one certificate of this name and serial number is for.
    fn of_documents(&self, module: &str, serial: &[u8; SERIAL]) -> Option<Zeroizing<[u8; SCALAR]>> {
        derive(self.secret.expose(), &[DOCUMENTS, serial, module.as_bytes()]).ok()
    }
}

/// What certifies the documents of one instance.
pub struct Issuer {
    key: std::rc::Rc<CardKey>,
    chain: Chain,
}

impl Issuer {
    /// Takes an instance's certificate for this key with all above it.
    pub fn new(key: std::rc::Rc<CardKey>, chain: Chain) -> Result<Self, CertificateError> {
        if chain.is_for(key.public()) { Ok(Self { key, chain }) } else { Err(CertificateError::Key) }
    }

    /// The certificates above a document's own, root first.
    pub(crate) fn bundle(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.0.iter().rev().map(Vec::as_slice)
    }

    /// The instance's certificate.
    pub(crate) fn certificate(&self) -> &[u8] {
        self.chain.0.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether all certificates are valid at `now`.
    pub(crate) fn is_good(&self, now: Duration) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let good = |certificate: X509Certificate<'_>| {
            let validity = certificate.validity();
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
        };
        self.chain.0.iter().all(|der| parse(der).is_some_and(good))
    }

    /// A new key for documents, certified from `now` on, if all certificates above are valid then.
    pub(crate) fn certify(&self, module: &str, serial: [u8; 8], now: Duration) -> Option<Leaf> {
        if !self.is_good(now) {
            return None;
        }
        let mut number = [0; SERIAL];
        number.copy_from_slice(&[serial, now.as_secs().to_be_bytes()].concat());
        let mut params = params(format!("{module}.azote"), number.to_vec(), now, LEAF_LIFETIME)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
        let public = public_of(&*self.key.of_documents(module, &number)?).ok()?;
        let key = self.key.key()?;
        let certificate = params.signed_by(&Public(&public), &self.chain.issuer(&key).ok()?).ok()?;
        Some(Leaf { serial: number, public, certificate: certificate.der().to_vec() })
    }

    /// Signs with the key that `leaf` certifies: r ‖ s, 96 bytes.
    pub(crate) fn sign(&self, module: &str, leaf: &Leaf, message: &[u8]) -> Option<Vec<u8>> {
        let scalar = self.key.of_documents(module, &leaf.serial)?;
        let key = pair(&ECDSA_P384_SHA384_FIXED_SIGNING, &scalar, &leaf.public).ok()?;
        Some(key.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec())
    }
}

/// What certifies a document's key; who has the card's key makes that key from it.
#[derive(Debug)]
pub(crate) struct Leaf {
    serial: [u8; SERIAL],
    public: Vec<u8>,
    certificate: Vec<u8>,
}

impl Leaf {
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}
