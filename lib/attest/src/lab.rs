//! A host made of software, for tests of whoever asks hosts: authority, root key, release, and a key in place of a
//! TPM's that signs whatever counters and registers a test wants. No policy but one made with its keys takes it.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use crate::{
    AkCertificate, Bytes, Counters, Event, Evidence, Hash, NONCE, PCRS, Policy, qualifying_data,
    verify::sha256,
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use ids::{Environment, HostId, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber,
};
use release::{Configuration, Image, Kind, Manifest};
use time::OffsetDateTime;
use token::PublicKey;
use tpm::{Measurement, Quote, replay};

/// The moment around which everything of [`Lab::default`] is valid, Unix time.
pub const NOW: u64 = 1_800_000_000;
/// For how many seconds before and after it.
pub const DAY: u64 = 86_400;

/// Keys and papers of one host and of those above it. Tests change what they like before they ask for evidence.
pub struct Lab {
    /// The authority's certificate, PEM.
    pub authority: String,
    issuer: Issuer<'static, KeyPair>,
    /// The authority's key.
    pub authority_key: Ed25519KeyPair,
    /// Signs releases and configurations.
    pub root: Ed25519KeyPair,
    /// The host.
    pub host: HostId,
    /// The host's identity key.
    pub identity: Ed25519KeyPair,
    /// In place of the TPM's attestation key.
    pub attestation: EcdsaKeyPair,
    /// What all is made for.
    pub environment: Environment,
    /// What the host runs.
    pub manifest: Manifest,
    /// Its configuration.
    pub configuration: Configuration,
    /// The TPM's counters.
    pub counters: Counters,
    /// The serial number of the host's certificate.
    pub serial: u64,
    /// When everything is valid: a day before and after this, Unix time.
    pub now: u64,
}

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
}

impl Default for Lab {
    fn default() -> Self {
        Self::new(Environment::NonProduction)
    }
}

impl Lab {
    /// A good host, and an authority of its own, around [`NOW`].
    pub fn new(environment: Environment) -> Self {
        let ca = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (at(NOW - DAY), at(NOW + DAY));
        let authority = params.self_signed(&ca).unwrap().pem();
        Self::under(&authority, &ca.serialize_pem(), environment, NOW)
    }

    /// A good host of the authority with this certificate and key (PEM).
    pub fn under(authority: &str, key: &str, environment: Environment, now: u64) -> Self {
        let ca = KeyPair::from_pem(key).unwrap();
        let authority_key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&ca.serialize_der()).unwrap();
        let attestation = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let images = Kind::ALL.iter().map(|kind| Image {
            kind: *kind,
            name: kind.name().to_owned(),
            length: 1,
            sha256: sha256(kind.name().as_bytes()),
        });
        Self {
            authority: authority.to_owned(),
            issuer: Issuer::from_ca_cert_pem(authority, ca).unwrap(),
            authority_key,
            root: Ed25519KeyPair::generate().unwrap(),
            host: HostId::from_random(1),
            identity: Ed25519KeyPair::generate().unwrap(),
            attestation,
            environment,
            manifest: Manifest { version: "1.2.0".to_owned(), svn: 3, environment, images: images.collect() },
            configuration: Configuration { environment, sequence: 5, text: "stop-grace=8\n".to_owned() },
            counters: Counters { reset_count: 4, restart_count: 0, clock: 1_000_000 },
            serial: 1,
            now,
        }
    }

    /// A policy that takes exactly this host's release.
    pub fn policy(&self) -> Policy {
        let (root, manifest) = (PublicKey::of(&self.root), self.manifest.sign(&self.root).unwrap());
        Policy::new(self.environment, self.authority.clone(), root, vec![manifest], false, 0).unwrap()
    }

    /// The authority's certificate (PEM) for the public half of `key`, for a day before and after [`NOW`].
    pub fn certify(&self, key: &Ed25519KeyPair, identity: &Identity) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(self.serial));
        (params.not_before, params.not_after) = (at(self.now - DAY), at(self.now + DAY));
        let public = [&crate::chain::WHOLE[..], key.public_key().as_ref()].concat();
        let public = rcgen::SubjectPublicKeyInfo::from_der(&public).unwrap();
        params.signed_by(&public, &self.issuer).unwrap().pem()
    }

    /// The authority's revocation list (PEM), with these serial numbers in it, good until `until`.
    pub fn revocations(&self, serials: &[u64], until: u64) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(self.now - DAY),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(self.now - DAY),
            next_update: at(until),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// What the boot measures.
    pub fn events(&self) -> Vec<Event> {
        let event = |pcr, what: &str, sha256| Event { pcr, what: what.to_owned(), sha256: Hash(sha256) };
        let mut events = vec![
            event(8, "root key", sha256(&PublicKey::of(&self.root).0)),
            event(9, "release", sha256(&self.manifest.sign(&self.root).unwrap())),
            event(10, "configuration", sha256(&self.configuration.sign(&self.root).unwrap())),
        ];
        events.extend(self.manifest.images.iter().map(|image| {
            let (pcr, what) = image.kind.event();
            event(pcr, what, image.sha256)
        }));
        events
    }

    /// Good evidence.
    pub fn evidence(&self, nonce: &[u8; NONCE]) -> Evidence {
        self.evidence_of(nonce, self.events())
    }

    /// Evidence of a TPM into which exactly these events were extended.
    pub fn evidence_of(&self, nonce: &[u8; NONCE], events: Vec<Event>) -> Evidence {
        let quote = self.quote(nonce, &events);
        let quote = Quote { signature: self.sign(&quote), attest: quote };
        self.evidence_by(self.attestation_public(), quote, events)
    }

    /// Evidence with the quote of a TPM whose attestation key (`TPM2B_PUBLIC`) gets this host's papers.
    pub fn evidence_by(&self, key: Vec<u8>, quote: Quote, events: Vec<Event>) -> Evidence {
        let attestation_key = Bytes(key);
        let certificate = AkCertificate {
            host: self.host.clone(),
            environment: self.environment,
            attestation_key: attestation_key.clone(),
            endorsement: Hash([7; 32]),
            not_before: self.now - DAY,
            not_after: self.now + DAY,
        };
        Evidence {
            signature: Bytes(quote.signature),
            quote: Bytes(quote.attest),
            attestation_key,
            attestation_certificate: Bytes(certificate.sign(&self.authority_key).unwrap()),
            certificate: self.certify(&self.identity, &Identity::Host(self.host.clone())),
            events,
            manifest: Bytes(self.manifest.sign(&self.root).unwrap()),
            configuration: Bytes(self.configuration.sign(&self.root).unwrap()),
        }
    }

    /// `TPM2B_PUBLIC` of a restricted P-256 signing key that is bound to its TPM (part 2, §12.2.5).
    fn attestation_public(&self) -> Vec<u8> {
        let (_, point) = self.attestation.public_key().as_ref().split_first().unwrap();
        let (x, y) = point.split_at(32);
        let mut public = vec![0, 0x23, 0, 0x0b];
        public.extend(0x0005_0472_u32.to_be_bytes());
        public.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 0x03, 0, 0x10]);
        [x, y].iter().for_each(|number| public.extend(sized(number)));
        sized(&public)
    }

    /// `TPMS_ATTEST` (part 2, §10.12.12).
    fn quote(&self, nonce: &[u8; NONCE], events: &[Event]) -> Vec<u8> {
        let measured = |e: &Event| Measurement { pcr: e.pcr, digest: e.sha256.0, description: String::new() };
        let values = replay(&events.iter().map(measured).collect::<Vec<_>>()).unwrap();
        let registers: Vec<u8> = PCRS.flat_map(|pcr| values.get(&pcr).copied().unwrap_or_default()).collect();
        let mut quote = vec![0xff, b'T', b'C', b'G', 0x80, 0x18];
        quote.extend(sized(&[&[0, 0x0b][..], &[9; 32]].concat()));
        quote.extend(sized(&qualifying_data(nonce, &PublicKey::of(&self.identity))));
        quote.extend(self.counters.clock.to_be_bytes());
        quote.extend(self.counters.reset_count.to_be_bytes());
        quote.extend(self.counters.restart_count.to_be_bytes());
        quote.push(1);
        quote.extend([0; 8]);
        quote.extend([0, 0, 0, 1, 0, 0x0b, 3, 0, 0x1f, 0]);
        quote.extend(sized(&sha256(&registers)));
        quote
    }

    /// `TPMT_SIGNATURE` (part 2, §11.3.4).
    pub fn sign(&self, quote: &[u8]) -> Vec<u8> {
        let signature = self.attestation.sign(&SystemRandom::new(), quote).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0, 0x18, 0, 0x0b][..], &sized(r), &sized(s)].concat()
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}
