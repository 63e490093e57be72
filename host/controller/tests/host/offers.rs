//! Certificates that the running controller is offered, and its end by a factory reset.

use crate::rack::{Rack, now};
use attest::{AkCertificate, Bytes, Hash};
use base64::{Engine, engine::general_purpose::STANDARD};
use host_api::{AttestHost, AttestationKey, DrainHost, Nonce, OfferCertificate, ResetHost};
use ids::{Environment, HostId, Identity};
use pki::Ca;
use std::{fs, time::Duration};
use token::Ed25519KeyPair;

const DAY: Duration = Duration::from_secs(86_400);

/// What the authority knows to write.
struct Author<'a> {
    rack: &'a Rack,
    key: Ed25519KeyPair,
    attestation_key: Vec<u8>,
    request: String,
}

impl<'a> Author<'a> {
    async fn of(rack: &'a Rack) -> Self {
        let pem = fs::read_to_string(rack.dir.path().join("pki/ca.key")).unwrap();
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&STANDARD.decode(text).unwrap()).unwrap();
        let evidence = rack.call(AttestHost { nonce: Nonce::from_bytes(&[1; 32]) }).await.unwrap();
        let request = fs::read_to_string(rack.dir.path().join("state/request.pem")).unwrap();
        Self { rack, key, attestation_key: evidence.attestation_key.to_bytes(), request }
    }

    fn ak(&self, change: impl FnOnce(&mut AkCertificate)) -> AttestationKey {
        let mut certificate = AkCertificate {
            host: self.rack.host.clone(),
            environment: Environment::NonProduction,
            attestation_key: Bytes(self.attestation_key.clone()),
            endorsement: Hash([1; 32]),
            not_before: now() - 1,
            not_after: now() + DAY.as_secs(),
        };
        change(&mut certificate);
        AttestationKey::from_bytes(&certificate.sign(&self.key).unwrap()).unwrap()
    }

    fn offer(&self, hours: u32) -> OfferCertificate {
        self.of_chain(&self.rack.ca, &self.request, &self.rack.host, hours)
    }

    fn of_chain(&self, ca: &Ca, request: &str, host: &HostId, hours: u32) -> OfferCertificate {
        let life = DAY + Duration::from_secs(3600) * hours;
        let chain = ca.issue(request, &Identity::Host(host.clone()), true, life).unwrap();
        let attestation_certificate = self.ak(|_| ());
        OfferCertificate { chain: chain.parse().unwrap(), attestation_certificate, instances_chain: None }
    }
}

#[tokio::test]
async fn a_host_takes_later_certificates_of_its_own_authority_for_its_own_keys_and_nothing_else() {
    let mut rack = Rack::start();
    let author = Author::of(&rack).await;
    let first = rack.status().await.certificate;

    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Ca::create(elsewhere.path()).unwrap();
    let other_key = service::Key::generate().unwrap().request().unwrap();
    let good = author.offer(1);
    let with = |attestation_certificate| OfferCertificate { attestation_certificate, ..good.clone() };
    for (what, offer) in [
        ("of another authority", author.of_chain(&stranger, &author.request, &rack.host, 1)),
        ("for another key", author.of_chain(&rack.ca, &other_key, &rack.host, 1)),
        ("for another host", author.of_chain(&rack.ca, &author.request, &HostId::from_random(9), 1)),
        ("no certificates", OfferCertificate { chain: "-".parse().unwrap(), ..good.clone() }),
        ("of another TPM", with(author.ak(|it| it.attestation_key.0[40] ^= 1))),
        ("of another host's TPM", with(author.ak(|it| it.host = HostId::from_random(9)))),
        ("of another environment", with(author.ak(|it| it.environment = Environment::Production))),
        ("out of time", with(author.ak(|it| it.not_after = now() - 1))),
        ("no attestation certificate", with(AttestationKey::from_bytes(&[]).unwrap())),
        (
            "no chain of instances",
            OfferCertificate { instances_chain: Some(good.chain.clone()), ..good.clone() },
        ),
    ] {
        assert_eq!(rack.refused(offer).await, "certificate.refused", "{what}");
    }
    assert_eq!(rack.status().await.certificate, first);

    rack.call(good.clone()).await.unwrap();
    assert_eq!(rack.status().await.certificate, good.chain);
    let evidence = rack.call(AttestHost { nonce: Nonce::from_bytes(&[2; 32]) }).await.unwrap();
    assert_eq!(
        (evidence.certificate, evidence.attestation_certificate),
        (good.chain.clone(), good.attestation_certificate.clone())
    );
    rack.call(good.clone()).await.unwrap();
    assert_eq!(rack.refused(author.offer(0)).await, "certificate.older");
    // Also after a power cut, though it is started with the first one.
    rack.power_cycle();
    assert_eq!(rack.status().await.certificate, good.chain);
}

#[tokio::test]
async fn a_reset_ends_a_host_for_good() {
    let mut rack = Rack::start();
    assert_eq!(rack.refused(ResetHost {}).await, "host.in-use");
    rack.call(DrainHost {}).await.unwrap();
    let erased = rack.call(ResetHost {}).await.unwrap();
    let statement = token::cose::parse(&erased.statement.to_bytes()).unwrap().payload.unwrap();
    let statement: attest::Statement = serde_json::from_slice(&statement).unwrap();
    assert_eq!((&statement.host, statement.media.len()), (&rack.host, 2));
    assert!(rack.controller.0.wait().unwrap().success(), "it ends by itself");
    // What is left of it is of no use, also to itself.
    assert!(!rack.try_controller().status.success());
    assert_eq!(rack.report().0, "boot.identity");
}
