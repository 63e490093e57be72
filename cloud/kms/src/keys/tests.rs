use super::*;
use crate::{MAX_GRANTS, MAX_KEYS, MAX_NONCES, NONCE_LIFE};
use attest::{Counters, LaunchPolicy, lab::Lab};
use ids::{Environment, HostId, InstanceId, VolumeId};
use pki::Ca;
use seal::CardKey;
use std::{cell::Cell, collections::BTreeMap};
use tempfile::TempDir;
use token::Ed25519KeyPair;

const DAY: u64 = 86_400;

fn who(text: &str) -> Identity {
    text.parse().unwrap()
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A key service, an authority, a host, and a tenant's volume key with a grant for the host's card.
struct Scene {
    kms: Kms,
    dir: TempDir,
    ca: Ca,
    lab: Lab,
    acme: Identity,
    control_plane: Identity,
    card: CardKey,
    volume: VolumeId,
    key: KeyId,
    blob: Bytes,
    grant: Grant,
}

fn card_certificate(identity: &Ed25519KeyPair, says: u128, card: &CardKey, from: u64) -> Bytes {
    let certificate = CardKeyCertificate {
        host: HostId::from_random(says),
        public_key: *card.public(),
        not_before: from,
        not_after: from + 60,
    };
    Bytes(certificate.sign(identity).unwrap())
}

fn root() -> Secret<32> {
    Secret::take(&mut [0x5a; 32]).unwrap()
}

fn data_key(key: &KeyId, bytes: u16, volume: &VolumeId) -> GenerateDataKeyWithoutPlaintext {
    GenerateDataKeyWithoutPlaintext {
        key_id: key.clone(),
        number_of_bytes: bytes,
        encryption_context: EncryptionContext::of_volume(volume),
    }
}

fn grant_for(key: &KeyId, host: u128, volume: &VolumeId) -> CreateGrant {
    CreateGrant {
        key_id: key.clone(),
        grantee: Identity::Host(HostId::from_random(host)),
        operations: vec![GrantOperation::Decrypt],
        launch: None,
        constraint: EncryptionContext::of_volume(volume),
        instance: Some(InstanceId::from_random(1)),
        seconds: 60,
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path()).unwrap();
        let ca_key = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
        let lab = Lab::under(ca.certificate(), &ca_key, Environment::NonProduction, now());
        let kms = open(dir.path(), root(), &ca, Some(lab.policy())).unwrap();
        let acme = who("azote:tenant/acme");
        let volume = VolumeId::from_random(1);
        let key = kms.create_key(&acme, CreateKey {}, now()).unwrap().key_id;
        let blob = kms.generate_data_key(&acme, data_key(&key, 64, &volume), 0).unwrap().ciphertext_blob;
        let grant = kms.create_grant(&acme, grant_for(&key, 1, &volume), now()).unwrap();
        let card = CardKey::generate().unwrap();
        let control_plane = who("azote:service/control-plane");
        Self { kms, dir, ca, lab, acme, control_plane, card, volume, key, blob, grant }
    }

    fn nonce(&self, now: u64) -> [u8; NONCE] {
        let ask = AttestationNonce { host: self.lab.host.clone() };
        self.kms.attestation_nonce(&self.control_plane, ask, now).unwrap().nonce.0.try_into().unwrap()
    }

    /// A request with everything in order.
    fn request(&self) -> DecryptForRecipient {
        self.request_at(now())
    }

    fn request_at(&self, now: u64) -> DecryptForRecipient {
        let nonce = self.nonce(now);
        DecryptForRecipient {
            ciphertext_blob: self.blob.clone(),
            encryption_context: EncryptionContext::of_volume(&self.volume),
            grant_token: self.grant.grant_token.clone(),
            card_key_certificate: card_certificate(&self.lab.identity, 1, &self.card, now),
            recipient: Recipient::Host {
                nonce: Bytes(nonce.to_vec()),
                evidence: Box::new(self.lab.evidence(&nonce)),
            },
        }
    }

    fn decrypt(&self, request: DecryptForRecipient) -> Result<SealedKey, KmsError> {
        self.kms.decrypt_for_recipient(&self.control_plane, request, now())
    }

    #[track_caller]
    fn refuses(&self, code: &str, request: DecryptForRecipient) {
        assert_eq!(self.decrypt(request).unwrap_err().code(), code);
    }

    fn plain(&self, sealed: &SealedKey) -> VolumeKey {
        let context = Context { host: sealed.host.clone(), volume: self.volume.clone() };
        self.card.open(&sealed.sealed_key.0, &context).unwrap()
    }
}

fn open(dir: &Path, root: Secret<32>, ca: &Ca, policy: Option<Policy>) -> Result<Kms, KmsError> {
    Kms::open(&dir.join("kms.redb"), root, Arc::new(Trust::new(ca.certificate()).unwrap()), policy)
}

#[track_caller]
fn code<T>(result: Result<T, KmsError>) -> &'static str {
    result.err().unwrap().code()
}

#[test]
fn the_granted_card_opens_the_same_key_every_time_and_no_other_card_does() {
    let scene = Scene::new();
    let first = scene.decrypt(scene.request()).unwrap();
    let second = scene.decrypt(scene.request()).unwrap();
    assert_ne!(first.sealed_key, second.sealed_key);
    let key = scene.plain(&first);
    assert_eq!(key.expose(), scene.plain(&second).expose());
    assert_ne!(key.expose()[..32], key.expose()[32..]);
    assert_eq!((first.host, first.key_id), (HostId::from_random(1), scene.key.clone()));
    let context =
        |host, volume| Context { host: HostId::from_random(host), volume: VolumeId::from_random(volume) };
    for (host, volume) in [(2, 1), (1, 2)] {
        assert!(scene.card.open(&second.sealed_key.0, &context(host, volume)).is_err());
    }
    assert!(CardKey::generate().unwrap().open(&second.sealed_key.0, &context(1, 1)).is_err());
}

#[test]
fn keys_are_their_owners() {
    let Scene { kms, acme, key, volume, grant, control_plane, .. } = &Scene::new();
    let described = kms.describe_key(acme, DescribeKey { key_id: key.clone() }, 0).unwrap();
    assert_eq!(described.owner, *acme);
    for other in
        ["azote:tenant/evil", "azote:operator/alice", "azote:service/control-plane", "azote:service/acme"]
    {
        let other = who(other);
        assert_eq!(code(kms.describe_key(&other, DescribeKey { key_id: key.clone() }, 0)), "kms.denied");
        assert_eq!(code(kms.generate_data_key(&other, data_key(key, 64, volume), 0)), "kms.denied");
        assert_eq!(code(kms.create_grant(&other, grant_for(key, 1, volume), now())), "kms.denied");
        let by_id = RetireGrant::ById { key_id: key.clone(), grant_id: grant.grant_id.clone() };
        assert_eq!(code(kms.retire_grant(&other, by_id, 0)), "kms.denied");
    }
    for other in ["azote:operator/alice", "azote:service/control-plane", "azote:host/h-00000000000000001"] {
        assert_eq!(code(kms.create_key(&who(other), CreateKey {}, 0)), "kms.denied");
    }
    let none = KeyId::from_random(7);
    assert_eq!(code(kms.describe_key(acme, DescribeKey { key_id: none.clone() }, 0)), "kms.not-found");
    assert_eq!(code(kms.generate_data_key(acme, data_key(&none, 64, volume), 0)), "kms.not-found");
    assert_eq!(code(kms.create_grant(acme, grant_for(&none, 1, volume), now())), "kms.not-found");
    let by_token = || RetireGrant::ByToken { grant_token: grant.grant_token.clone() };
    assert_eq!(code(kms.retire_grant(&who("azote:tenant/evil"), by_token(), 0)), "kms.denied");
    kms.retire_grant(control_plane, by_token(), 0).unwrap();
    assert_eq!(code(kms.retire_grant(control_plane, by_token(), 0)), "kms.grant");
}

#[test]
fn only_services_that_open_keys_may_use_a_grant() {
    let scene = Scene::new();
    let open = |caller: &str| scene.kms.decrypt_for_recipient(&who(caller), scene.request(), now());
    open("azote:service/volumes").unwrap();
    for caller in [
        "azote:tenant/acme",
        "azote:operator/alice",
        "azote:service/tokens",
        "azote:host/h-00000000000000001",
    ] {
        assert_eq!(code(open(caller)), "kms.denied", "{caller}");
        let ask = AttestationNonce { host: HostId::from_random(1) };
        assert_eq!(code(scene.kms.attestation_nonce(&who(caller), ask, now())), "kms.denied");
    }
    assert_eq!(code(open("azote:importer/acme")), "kms.denied", "an importer is no host");
}

#[test]
fn a_grant_is_for_one_key_one_volume_and_one_host_until_it_is_retired() {
    let scene = Scene::new();
    let Scene { kms, acme, key, volume, .. } = &scene;
    let token = &scene.grant.grant_token;
    for bad in
        ["", "x", &token[..token.len() - 1], &format!("{}A", token.0), &token.replace("grant-", "grand-")]
    {
        scene.refuses(
            "kms.grant",
            DecryptForRecipient { grant_token: GrantToken(bad.to_owned()), ..scene.request() },
        );
    }
    let mut forged = token.clone().0.into_bytes();
    let last = forged.len() - 3;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    scene.refuses("kms.grant", DecryptForRecipient { grant_token: GrantToken(forged), ..scene.request() });

    let other_key = kms.create_key(acme, CreateKey {}, 0).unwrap().key_id;
    let other = kms.create_grant(acme, grant_for(&other_key, 1, volume), now()).unwrap();
    scene.refuses("kms.grant", DecryptForRecipient { grant_token: other.grant_token, ..scene.request() });

    let elsewhere = VolumeId::from_random(2);
    let other = kms.create_grant(acme, grant_for(key, 1, &elsewhere), now()).unwrap();
    scene.refuses("kms.context", DecryptForRecipient { grant_token: other.grant_token, ..scene.request() });
    let encryption_context = EncryptionContext::of_volume(&elsewhere);
    scene.refuses("kms.context", DecryptForRecipient { encryption_context, ..scene.request() });
    scene.refuses(
        "kms.context",
        DecryptForRecipient { encryption_context: EncryptionContext::default(), ..scene.request() },
    );
    let wide = CreateGrant { constraint: EncryptionContext::default(), ..grant_for(key, 1, volume) };
    assert_eq!(code(kms.create_grant(acme, wide, now())), "kms.context");
    for operations in [vec![], vec![GrantOperation::Decrypt; 2]] {
        let odd = CreateGrant { operations, ..grant_for(key, 1, volume) };
        assert_eq!(code(kms.create_grant(acme, odd, now())), "kms.malformed");
    }

    for seconds in [0, MAX_GRANT_LIFE + 1, u32::MAX] {
        let odd = CreateGrant { seconds, ..grant_for(key, 1, volume) };
        assert_eq!(code(kms.create_grant(acme, odd, now())), "kms.malformed");
    }
    let by_id = || RetireGrant::ById { key_id: key.clone(), grant_id: scene.grant.grant_id.clone() };
    kms.retire_grant(acme, by_id(), 0).unwrap();
    scene.refuses("kms.grant", scene.request());
    assert_eq!(code(kms.retire_grant(acme, by_id(), 0)), "kms.grant");
}

#[test]
fn the_card_must_be_certified_now_by_the_key_that_the_quote_names() {
    let scene = Scene::new();
    let with = |card_key_certificate| DecryptForRecipient { card_key_certificate, ..scene.request() };
    let (card, identity) = (&scene.card, &scene.lab.identity);
    scene.decrypt(with(card_certificate(identity, 1, card, now()))).unwrap();
    scene.refuses("kms.recipient", with(card_certificate(identity, 2, card, now())));
    scene.refuses("kms.recipient", with(card_certificate(identity, 1, card, now() - 61)));
    scene.refuses("kms.recipient", with(card_certificate(identity, 1, card, now() + 60)));
    scene.refuses("kms.recipient", with(Bytes(vec![])));
    let other = Ed25519KeyPair::generate().unwrap();
    scene.refuses("kms.recipient", with(card_certificate(&other, 1, card, now())));
    // The host's own certificate for another identity key: its TPM did not sign with that one.
    let mut request = with(card_certificate(&other, 1, card, now()));
    let chain = scene.lab.certify(&other, &Identity::Host(scene.lab.host.clone()));
    if let Recipient::Host { evidence, .. } = &mut request.recipient {
        evidence.certificate = chain;
    }
    scene.refuses("attest.nonce", request);
    let later =
        scene.kms.decrypt_for_recipient(&scene.control_plane, scene.request_at(now() + 60), now() + 60);
    assert_eq!(code(later), "kms.grant-expired");
}

#[test]
fn without_fresh_evidence_there_is_no_key() {
    let scene = Scene::new();
    let change = |change: &dyn Fn(&mut Bytes, &mut Evidence)| {
        let mut request = scene.request();
        if let Recipient::Host { nonce, evidence } = &mut request.recipient {
            change(nonce, evidence);
        }
        request
    };
    // Of another question, of nobody's, used before, or too late.
    scene.refuses("attest.nonce", change(&|_, evidence| *evidence = scene.lab.evidence(&[1; NONCE])));
    scene.refuses("attest.nonce", change(&|nonce, _| *nonce = Bytes(vec![1; NONCE])));
    scene.refuses("kms.malformed", change(&|nonce, _| *nonce = Bytes(vec![1; 31])));
    let once = scene.request();
    scene.decrypt(once.clone()).unwrap();
    scene.refuses("attest.nonce", once);
    let spent = change(&|_, evidence| evidence.events.clear());
    scene.refuses("attest.log", spent.clone());
    scene.refuses("attest.nonce", spent);
    let late = scene.request_at(now() - NONCE_LIFE);
    scene.refuses("attest.nonce", late);
    scene.request_at(now() - NONCE_LIFE + 5);
    // A nonce that was asked for another host.
    let ask = AttestationNonce { host: HostId::from_random(2) };
    let other = scene.kms.attestation_nonce(&scene.control_plane, ask, now()).unwrap().nonce;
    let evidence = scene.lab.evidence(&other.0.clone().try_into().unwrap());
    scene.refuses("attest.nonce", change(&|nonce, was| (*nonce, *was) = (other.clone(), evidence.clone())));
    // Another release than the policy takes, and no policy at all.
    let mut other = Scene::new();
    other.lab.manifest.svn -= 1;
    other.refuses("attest.rollback", other.request());
    let Scene { kms, dir, ca, .. } = &mut other;
    *kms = Kms::open(
        &dir.path().join("other.redb"),
        root(),
        Arc::new(Trust::new(ca.certificate()).unwrap()),
        None,
    )
    .unwrap();
    let key = other.kms.create_key(&other.acme, CreateKey {}, 0).unwrap().key_id;
    let volume = other.volume.clone();
    other.blob =
        other.kms.generate_data_key(&other.acme, data_key(&key, 64, &volume), 0).unwrap().ciphertext_blob;
    other.grant = other.kms.create_grant(&other.acme, grant_for(&key, 1, &volume), now()).unwrap();
    other.refuses("attest.policy-empty", other.request());
}

#[test]
fn a_grant_can_demand_more_of_a_host_than_the_service_does() {
    let mut scene = Scene::new();
    let launch = scene.lab.policy().launch().unwrap();
    let demand = |scene: &mut Scene, launch: LaunchPolicy| {
        let grant = CreateGrant { launch: Some(launch), ..grant_for(&scene.key, 1, &scene.volume) };
        scene.grant = scene.kms.create_grant(&scene.acme, grant, now()).unwrap();
    };
    demand(&mut scene, launch.clone());
    scene.decrypt(scene.request()).unwrap();
    let mut newer = launch.clone();
    (newer.or_later, newer.releases[0].manifest) = (true, attest::Hash([0; 32]));
    demand(&mut scene, newer.clone());
    scene.decrypt(scene.request()).unwrap();
    newer.releases[0].version.svn += 1;
    demand(&mut scene, newer);
    scene.refuses("attest.rollback", scene.request());
    demand(&mut scene, LaunchPolicy { environment: Environment::Production, ..launch.clone() });
    scene.refuses("attest.environment", scene.request());
    let many =
        LaunchPolicy { releases: vec![launch.releases[0].clone(); MAX_RELEASES + 1], ..launch.clone() };
    for launch in [many, LaunchPolicy { releases: vec![], ..launch }] {
        let grant = CreateGrant { launch: Some(launch), ..grant_for(&scene.key, 1, &scene.volume) };
        assert_eq!(code(scene.kms.create_grant(&scene.acme, grant, now())), "kms.malformed");
    }
}

#[test]
fn a_tpm_that_was_copied_or_put_back_is_found_also_after_a_restart() {
    let mut scene = Scene::new();
    scene.decrypt(scene.request()).unwrap();
    let original = scene.lab.counters;
    scene.lab.counters.clock -= 50;
    scene.refuses("attest.clock", scene.request());
    scene.lab.counters = Counters { reset_count: original.reset_count - 1, clock: u64::MAX, ..original };
    scene.refuses("attest.clock", scene.request());
    let (policy, elsewhere) = (scene.lab.policy(), tempfile::tempdir().unwrap());
    let kms = std::mem::replace(&mut scene.kms, open(elsewhere.path(), root(), &scene.ca, None).unwrap());
    drop(kms);
    scene.kms = open(scene.dir.path(), root(), &scene.ca, Some(policy)).unwrap();
    scene.refuses("attest.clock", scene.request());
    // Two answers that overtake each other are no copy.
    scene.lab.counters = Counters { clock: original.clock + 10, ..original };
    let first = scene.request();
    scene.lab.counters.clock += 10;
    let second = scene.request();
    scene.decrypt(second).unwrap();
    scene.decrypt(first).unwrap();
    scene.lab.counters.clock -= 5;
    scene.refuses("attest.clock", scene.request());
    // A host that was erased and enrolled anew counts from the beginning.
    scene.lab.identity = Ed25519KeyPair::generate().unwrap();
    scene.lab.counters = Counters { reset_count: 0, restart_count: 0, clock: 1 };
    scene.decrypt(scene.request()).unwrap();
}

#[test]
fn a_revoked_host_gets_nothing() {
    let scene = Scene::new();
    scene.kms.trust.offer(&scene.lab.revocations(&[7], now() + DAY)).unwrap();
    scene.decrypt(scene.request()).unwrap();
    let scene = Scene::new();
    scene.kms.trust.offer(&scene.lab.revocations(&[scene.lab.serial], now() + DAY)).unwrap();
    scene.refuses("attest.revoked", scene.request());
}

#[test]
fn nonces_are_bounded_and_make_room_again() {
    let scene = Scene::new();
    let ask = |at| {
        let ask = AttestationNonce { host: HostId::from_random(1) };
        scene.kms.attestation_nonce(&scene.control_plane, ask, at)
    };
    for _ in 0..MAX_NONCES {
        ask(now()).unwrap();
    }
    assert_eq!(code(ask(now())), "kms.nonces");
    ask(now() + NONCE_LIFE + 1).unwrap();
}

/// A machine of a tenant's, and what it asks with.
fn import(scene: &Scene, tenant: &str) -> (Identity, Recipient, Bytes) {
    let (importer, key) = (who(&format!("azote:importer/{tenant}")), Ed25519KeyPair::generate().unwrap());
    let certificate = scene.lab.certify(&key, &importer);
    let card = card_certificate(&key, 9, &scene.card, now());
    (importer, Recipient::Importer { certificate }, card)
}

fn import_grant(scene: &Scene, importer: &str) -> CreateGrant {
    CreateGrant {
        grantee: who(importer),
        operations: vec![GrantOperation::Import],
        ..grant_for(&scene.key, 1, &scene.volume)
    }
}

#[test]
fn an_importer_gets_one_key_of_its_own_tenant_once_and_is_never_a_host() {
    let mut scene = Scene::new();
    let (importer, recipient, card_key_certificate) = import(&scene, "acme");
    let ask = |scene: &Scene, caller: &Identity, request: DecryptForRecipient| {
        scene.kms.decrypt_for_recipient(caller, request, now())
    };
    let request = |scene: &Scene| DecryptForRecipient {
        recipient: recipient.clone(),
        card_key_certificate: card_key_certificate.clone(),
        ..scene.request()
    };
    // A host's grant is no importer's, nobody but the owner names one, and only its own.
    assert_eq!(code(ask(&scene, &importer, request(&scene))), "kms.importer");
    let name = |caller: &str, grant| code(scene.kms.create_grant(&who(caller), grant, now()));
    let grant = |importer| import_grant(&scene, importer);
    assert_eq!(name("azote:tenant/acme", grant("azote:importer/evil")), "kms.importer");
    assert_eq!(name("azote:tenant/acme", grant("azote:operator/acme")), "kms.importer");
    assert_eq!(name("azote:tenant/evil", grant("azote:importer/evil")), "kms.denied");
    let long = CreateGrant { seconds: MAX_IMPORT_LIFE + 1, ..grant("azote:importer/acme") };
    assert_eq!(name("azote:tenant/acme", long), "kms.malformed");
    let launch = Some(scene.lab.policy().launch().unwrap());
    let launch = CreateGrant { launch, ..grant("azote:importer/acme") };
    assert_eq!(name("azote:tenant/acme", launch), "kms.malformed");
    for operations in [vec![GrantOperation::Decrypt], vec![GrantOperation::Import, GrantOperation::Decrypt]] {
        let odd = CreateGrant { operations, ..grant("azote:importer/acme") };
        assert_eq!(name("azote:tenant/acme", odd), "kms.malformed");
    }
    let decrypts =
        CreateGrant { operations: vec![GrantOperation::Import], ..grant_for(&scene.key, 1, &scene.volume) };
    assert_eq!(name("azote:tenant/acme", decrypts), "kms.malformed");
    // With the tenant's grant: not for the control plane, not for another importer, not for a host.
    scene.grant = scene.kms.create_grant(&scene.acme, grant("azote:importer/acme"), now()).unwrap();
    assert_eq!(code(ask(&scene, &scene.control_plane, request(&scene))), "kms.importer");
    let (evil, theirs, certificate) = import(&scene, "evil");
    let stolen =
        DecryptForRecipient { recipient: theirs, card_key_certificate: certificate, ..request(&scene) };
    assert_eq!(code(ask(&scene, &evil, stolen.clone())), "kms.importer");
    assert_eq!(code(ask(&scene, &importer, stolen)), "kms.recipient");
    scene.refuses("kms.importer", scene.request());
    let uncertified =
        DecryptForRecipient { card_key_certificate: scene.request().card_key_certificate, ..request(&scene) };
    assert_eq!(code(ask(&scene, &importer, uncertified)), "kms.recipient");
    // It gets the key, once.
    let sealed = ask(&scene, &importer, request(&scene)).unwrap();
    assert_eq!(sealed.host, HostId::from_random(9));
    scene.plain(&sealed);
    assert_eq!(code(ask(&scene, &importer, request(&scene))), "kms.grant");
}

#[test]
fn a_changed_or_foreign_ciphertext_is_refused() {
    let scene = Scene::new();
    let Bytes(good) = scene.blob.clone();
    let with = |blob: Vec<u8>| DecryptForRecipient { ciphertext_blob: Bytes(blob), ..scene.request() };
    for at in [0, 9, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        scene.refuses("kms.ciphertext", with(bad));
    }
    scene.refuses("kms.ciphertext", with(vec![]));
    scene.refuses("kms.ciphertext", with(good[..good.len() - 1].to_vec()));
    scene.refuses("kms.ciphertext", with([good.clone(), vec![0; 8000]].concat()));
    let Scene { kms, acme, key, volume, .. } = &scene;
    let short = kms.generate_data_key(acme, data_key(key, 32, volume), 0).unwrap().ciphertext_blob.0;
    scene.refuses("kms.ciphertext", with(short));
    let mut more = BTreeMap::from([("aws:ebs:id".to_owned(), volume.to_string())]);
    more.insert("stage".to_owned(), "test".to_owned());
    let encryption_context: EncryptionContext = more.try_into().unwrap();
    scene.refuses("kms.ciphertext", DecryptForRecipient { encryption_context, ..scene.request() });
}

#[test]
fn data_keys_have_the_length_that_is_asked_for() {
    let Scene { kms, acme, key, volume, .. } = &Scene::new();
    for length in [1, 32, 63, 64, 65, MAX_DATA_KEY] {
        let blob = kms.generate_data_key(acme, data_key(key, length, volume), 0).unwrap().ciphertext_blob.0;
        assert_eq!(blob.len(), usize::from(length) + 31 + cipher::OVERHEAD);
        assert!(blob.len() <= crate::MAX_CIPHERTEXT);
    }
    for length in [0, MAX_DATA_KEY + 1] {
        assert_eq!(code(kms.generate_data_key(acme, data_key(key, length, volume), 0)), "kms.malformed");
    }
}

#[test]
fn the_store_comes_back_only_under_its_root_key_and_holds_no_plain_key() {
    let scene = Scene::new();
    let sealed = scene.decrypt(scene.request()).unwrap();
    let data_key = scene.plain(&sealed);
    let record = scene.kms.store.key(&scene.key).unwrap().unwrap();
    let customer_key = scene.kms.unwrap(&scene.key, &record).unwrap();
    let Scene { kms, dir, ca, lab, acme, control_plane, card, volume, key, blob, grant } = scene;
    drop(kms);
    let bytes = std::fs::read(dir.path().join("kms.redb")).unwrap();
    let token_secret = grant.grant_token.rsplit('.').next().unwrap().as_bytes();
    for secret in [
        root().expose(),
        customer_key.expose(),
        &data_key.expose()[..32],
        &data_key.expose()[32..],
        token_secret,
    ] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    assert!(bytes.windows(9).any(|window| window == b"\"wrapped\""), "the file is what was looked into");
    let other = Secret::take(&mut [1; 32]).unwrap();
    assert!(open(dir.path(), other, &ca, None).is_err());
    let kms = open(dir.path(), root(), &ca, Some(lab.policy())).unwrap();
    let scene = Scene { kms, dir, ca, lab, acme, control_plane, card, volume, key, blob, grant };
    let again = scene.decrypt(scene.request()).unwrap();
    assert_eq!(scene.plain(&again).expose(), data_key.expose());
}

#[test]
fn a_stored_key_is_bound_to_its_id() {
    let scene = Scene::new();
    let other = scene.kms.create_key(&scene.acme, CreateKey {}, 0).unwrap().key_id;
    let record = scene.kms.store.key(&scene.key).unwrap().unwrap();
    assert_eq!(code(scene.kms.unwrap(&other, &record)), "internal");
}

#[test]
fn keys_and_grants_are_bounded() {
    let scene = Scene::new();
    let Scene { kms, acme, key, volume, .. } = &scene;
    let made = Cell::new(1);
    let until_refused = |make: &dyn Fn() -> Result<(), KmsError>| {
        made.set(1);
        loop {
            match make() {
                Ok(()) => made.set(made.get() + 1),
                Err(error) => return (error.code(), made.get()),
            }
        }
    };
    let keys = until_refused(&|| kms.create_key(acme, CreateKey {}, 0).map(drop));
    assert_eq!(keys, ("kms.limit", MAX_KEYS));
    kms.create_key(&who("azote:tenant/acme-two"), CreateKey {}, 0).unwrap();
    let grants = until_refused(&|| kms.create_grant(acme, grant_for(key, 1, volume), now()).map(drop));
    assert_eq!(grants, ("kms.limit", MAX_GRANTS));
    kms.retire_grant(
        acme,
        RetireGrant::ById { key_id: key.clone(), grant_id: scene.grant.grant_id.clone() },
        0,
    )
    .unwrap();
    kms.create_grant(acme, grant_for(key, 1, volume), now()).unwrap();
}

#[test]
fn a_grant_expires_and_then_makes_room() {
    let scene = Scene::new();
    let Scene { kms, control_plane, grant, acme, key, volume, .. } = &scene;
    let at = |now| kms.decrypt_for_recipient(control_plane, scene.request_at(now), now);
    assert!(at(grant.expires - 1).is_ok());
    assert_eq!(code(at(grant.expires)), "kms.grant-expired");
    for _ in 1..MAX_GRANTS {
        kms.create_grant(acme, grant_for(key, 1, volume), grant.expires - 1).unwrap();
    }
    let one_more = |now| kms.create_grant(acme, grant_for(key, 1, volume), now);
    assert_eq!(code(one_more(grant.expires - 1)), "kms.limit");
    one_more(grant.expires).unwrap();
    assert_eq!(code(at(grant.expires)), "kms.grant");
}

#[test]
fn what_opens_keys_is_not_printed() {
    let scene = Scene::new();
    let (request, grant) = (scene.request(), &scene.grant);
    let by_token = RetireGrant::ByToken { grant_token: grant.grant_token.clone() };
    for printed in [format!("{request:?}"), format!("{grant:?}"), format!("{by_token:?}")] {
        assert!(!printed.contains(grant.grant_token.rsplit('.').next().unwrap()), "{printed}");
    }
}
