//! The real program, a real software TPM, real connections, a real card key.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../../tokens/tests/house/mod.rs"]
mod house;

use attest::lab::Lab;
use house::{House, Running};
use ids::{Environment, HostId, KeyId, VolumeId};
use kms::client::{
    Bytes, Recipient, attestation_nonce, create_grant, create_key, decrypt_for, describe_key,
    generate_volume_key, retire_grant,
};
use seal::{CardKey, Context, VolumeKey};
use service::{CallError, Client, unseal_from};
use std::{fs, path::Path, time::UNIX_EPOCH};
use token::CardKeyCertificate;
use tpm::Tpm;

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-kms");

/// A host, its card, and its host's word for it.
struct Card {
    lab: Lab,
    key: CardKey,
    certificate: Vec<u8>,
}

impl Card {
    fn of(house: &House) -> Self {
        let (now, key) = (UNIX_EPOCH.elapsed().unwrap().as_secs(), CardKey::generate().unwrap());
        let ca_key = fs::read_to_string(house.path("ca.key")).unwrap();
        let lab = Lab::under(house.ca.certificate(), &ca_key, Environment::NonProduction, now);
        let certificate = CardKeyCertificate {
            host: lab.host.clone(),
            public_key: *key.public(),
            not_before: now,
            not_after: now + 60,
        };
        Self { certificate: certificate.sign(&lab.identity).unwrap(), key, lab }
    }

    /// The key service, for hosts that run what this one runs.
    fn kms(&self, house: &House) -> Running {
        let policy = house.path("attestation-policy.json");
        fs::write(&policy, self.lab.policy().to_json()).unwrap();
        house.start(PROGRAM, "kms", &["--attestation-policy", policy.to_str().unwrap()])
    }

    async fn ask(
        &self,
        caller: &Client,
        blob: &[u8],
        volume: &VolumeId,
        token: &str,
    ) -> Result<Vec<u8>, CallError> {
        let nonce = attestation_nonce(caller, &self.lab.host).await?;
        let evidence = Box::new(self.lab.evidence(&nonce));
        let recipient = Recipient::Host { nonce: Bytes(nonce.to_vec()), evidence };
        decrypt_for(caller, blob, volume, token, &self.certificate, recipient).await
    }

    fn open(&self, sealed: &[u8], volume: &VolumeId) -> VolumeKey {
        self.key.open(sealed, &Context { host: self.lab.host.clone(), volume: volume.clone() }).unwrap()
    }
}

/// Who takes part.
struct Parties {
    acme: Client,
    evil: Client,
    control_plane: Client,
}

fn parties(house: &House, kms: &Running) -> Parties {
    let client = |name| house.client(kms, name);
    Parties {
        acme: client("azote:tenant/acme"),
        evil: client("azote:tenant/evil"),
        control_plane: client("azote:service/control-plane"),
    }
}

#[track_caller]
fn code<T>(answer: Result<T, CallError>) -> String {
    answer.err().unwrap().code().to_owned()
}

#[tokio::test]
async fn a_volume_key_reaches_the_granted_card_and_everything_survives_a_kill() {
    let house = House::new();
    let card = Card::of(&house);
    let mut kms = card.kms(&house);
    let volume = VolumeId::from_random(1);

    let before = parties(&house, &kms);
    let key = create_key(&before.acme).await.unwrap().key_id;
    let blob = generate_volume_key(&before.acme, &key, &volume).await.unwrap();
    let grant = create_grant(&before.acme, &key, &card.lab.host, &volume, None).await.unwrap();
    // Answered means durable.
    kms.kill_and_restart();

    let Parties { acme, control_plane, .. } = parties(&house, &kms);
    assert_eq!(describe_key(&acme, &key).await.unwrap().owner.to_string(), "azote:tenant/acme");
    let open = async || card.ask(&control_plane, &blob, &volume, &grant.grant_token).await;
    let first = card.open(&open().await.unwrap(), &volume);
    let second = card.open(&open().await.unwrap(), &volume);
    assert_eq!(first.expose(), second.expose());
    retire_grant(&acme, &key, &grant.grant_id).await.unwrap();
    assert_eq!(code(open().await), "kms.grant");
    kms.kill_and_restart();
    assert_eq!(
        code(create_grant(&parties(&house, &kms).evil, &key, &card.lab.host, &volume, None).await),
        "kms.denied"
    );
    let control_plane = parties(&house, &kms).control_plane;
    let after = card.ask(&control_plane, &blob, &volume, &grant.grant_token).await;
    assert_eq!(code(after), "kms.grant", "a retired grant stays retired");
    assert_eq!(kms.stop(), Some(0), "{}", kms.log());

    let mut tpm = Tpm::connect(&house.path("tpm.sock")).unwrap();
    tpm.secure(None).unwrap();
    let root = unseal_from(&kms.state.join("root.sealed"), &mut tpm).unwrap();
    let identity = unseal_from(&kms.state.join("identity.sealed"), &mut tpm).unwrap();
    let (data, tweak) = first.expose().split_at(32);
    let secret = grant.grant_token.rsplit('.').next().unwrap().as_bytes();
    for secret in [&root[..], &identity[..], data, tweak, secret] {
        assert_in_no_file(&kms.state, secret);
        assert!(!contains(kms.log().as_bytes(), secret));
    }
    assert!(kms.log().contains(grant.grant_id.as_str()), "what was done is in the log");
}

fn assert_in_no_file(folder: &Path, secret: &[u8]) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!contains(&bytes, secret), "{}", file.display());
    }
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

#[tokio::test]
async fn every_refusal_has_its_code_and_is_logged() {
    let house = House::new();
    let (mut card, other) = (Card::of(&house), Card::of(&house));
    let kms = card.kms(&house);
    let Parties { acme, evil, control_plane } = parties(&house, &kms);
    let volume = VolumeId::from_random(1);
    let key = create_key(&acme).await.unwrap().key_id;
    let blob = generate_volume_key(&acme, &key, &volume).await.unwrap();
    let token = create_grant(&acme, &key, &card.lab.host, &volume, None).await.unwrap().grant_token;

    let none = KeyId::from_random(9);
    assert_eq!(code(describe_key(&acme, &none).await), "kms.not-found");
    assert_eq!(code(create_key(&control_plane).await), "kms.denied");
    assert_eq!(code(generate_volume_key(&evil, &key, &volume).await), "kms.denied");
    assert_eq!(code(card.ask(&acme, &blob, &volume, &token).await), "kms.denied");
    let mut changed = blob.clone();
    changed[60] ^= 1;
    let open = async |blob: &[u8], volume: u128, token: &str, card: &Card| {
        let volume = VolumeId::from_random(volume);
        card.ask(&control_plane, blob, &volume, token).await
    };
    assert_eq!(code(open(&changed, 1, &token, &card).await), "kms.ciphertext");
    assert_eq!(code(open(&blob, 2, &token, &card).await), "kms.context");
    assert_eq!(code(open(&blob, 1, "none", &card).await), "kms.grant");
    assert_eq!(code(open(&blob, 1, &token, &other).await), "attest.release");
    card.lab.counters.clock += 1000;
    card.open(&open(&blob, 1, &token, &card).await.unwrap(), &volume);
    card.lab.counters.clock -= 1;
    assert_eq!(code(open(&blob, 1, &token, &card).await), "attest.clock");
    let list = card.lab.revocations(&[card.lab.serial], UNIX_EPOCH.elapsed().unwrap().as_secs() + 60);
    card.lab.counters.clock += 1;
    let offer = async |list: String| {
        acme.post::<_, service::Known>(service::REVOCATIONS, &service::Revocations { list }).await
    };
    assert_eq!(code(offer(list.replace('A', "B")).await), "revocation.list");
    let request = kms::client::GenerateDataKeyWithoutPlaintext {
        key_id: key,
        number_of_bytes: 0,
        encryption_context: kms::EncryptionContext::of_volume(&volume),
    };
    let malformed =
        acme.post::<_, kms::client::DataKey>("/v1/GenerateDataKeyWithoutPlaintext", &request).await;
    assert_eq!(code(malformed), "kms.malformed");
    card.open(&open(&blob, 1, &token, &card).await.unwrap(), &volume);
    assert_eq!(offer(list).await.unwrap().number, 1);
    assert_eq!(code(open(&blob, 1, &token, &card).await), "attest.revoked");

    let log = kms.log();
    for code in ["not-found", "denied", "ciphertext", "context", "grant", "malformed"] {
        assert!(log.contains(&format!("\"code\":\"kms.{code}\"")), "{code}: {log}");
    }
    for code in ["release", "clock", "revoked"] {
        assert!(log.contains(&format!("\"code\":\"attest.{code}\"")), "{code}: {log}");
    }
}

#[test]
fn a_lost_root_key_is_not_replaced() {
    let house = House::new();
    let kms = house.start(PROGRAM, "kms", &[]);
    fs::remove_file(kms.state.join("root.sealed")).unwrap();
    let again = house.command(PROGRAM, "enrol", &kms.state).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(!kms.state.join("root.sealed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_are_all_served() {
    let house = House::new();
    let mut kms = house.start(PROGRAM, "kms", &[]);
    let Parties { acme, .. } = parties(&house, &kms);
    let key = create_key(&acme).await.unwrap().key_id;
    let callers: Vec<_> = (0..24)
        .map(|n| {
            // Each with connections of its own.
            let (acme, key) = (house.client(&kms, "azote:tenant/acme"), key.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    let volume = VolumeId::from_random(n * 100 + round);
                    generate_volume_key(&acme, &key, &volume).await.unwrap();
                    create_grant(&acme, &key, &HostId::from_random(n), &volume, None).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(kms.stop(), Some(0), "{}", kms.log());
}
