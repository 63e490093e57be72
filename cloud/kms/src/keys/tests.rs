use super::*;
use crate::{MAX_GRANTS, MAX_KEYS};
use ids::{InstanceId, VolumeId};
use pki::Ca;
use seal::CardKey;
use service::Key;
use std::{cell::Cell, collections::BTreeMap, path::PathBuf, time::Duration};
use tempfile::TempDir;

const DAY: u64 = 86_400;

fn who(text: &str) -> Identity {
    text.parse().unwrap()
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A key service, an authority, and a tenant's volume key with a grant for one host's card.
struct Scene {
    kms: Kms,
    _dir: TempDir,
    store: PathBuf,
    ca: Ca,
    acme: Identity,
    control_plane: Identity,
    card: CardKey,
    volume: VolumeId,
    key: KeyId,
    grant: Grant,
    request: DecryptForRecipient,
}

/// A host with its certificate and a certificate for a card's key.
fn host(ca: &Ca, id: u128, says: u128, card: &CardKey, from: u64) -> (String, Bytes) {
    let key = Key::generate().unwrap();
    let identity = Identity::Host(HostId::from_random(id));
    let chain = ca.issue(&key.request().unwrap(), &identity, true, Duration::from_secs(DAY)).unwrap();
    let certificate = CardKeyCertificate {
        host: HostId::from_random(says),
        public_key: *card.public(),
        not_before: from,
        not_after: from + 60,
    };
    (chain, Bytes(certificate.sign(key.pair()).unwrap()))
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
        grantee_host: HostId::from_random(host),
        operations: vec![GrantOperation::Decrypt],
        constraint: EncryptionContext::of_volume(volume),
        instance: Some(InstanceId::from_random(1)),
        seconds: 60,
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("kms.redb");
        let ca = Ca::create(dir.path()).unwrap();
        let kms = Kms::open(&store, root(), ca.certificate().to_owned()).unwrap();
        let acme = who("azote:tenant/acme");
        let volume = VolumeId::from_random(1);
        let key = kms.create_key(&acme, CreateKey {}, now()).unwrap().key_id;
        let blob = kms.generate_data_key(&acme, data_key(&key, 64, &volume), 0).unwrap().ciphertext_blob;
        let grant = kms.create_grant(&acme, grant_for(&key, 1, &volume), now()).unwrap();
        let card = CardKey::generate().unwrap();
        let (host_certificate, card_key_certificate) = host(&ca, 1, 1, &card, now());
        let request = DecryptForRecipient {
            ciphertext_blob: blob,
            encryption_context: EncryptionContext::of_volume(&volume),
            grant_token: grant.grant_token.clone(),
            card_key_certificate,
            host_certificate,
        };
        let control_plane = who("azote:service/control-plane");
        Self { kms, _dir: dir, store, ca, acme, control_plane, card, volume, key, grant, request }
    }

    fn decrypt(&self, request: DecryptForRecipient) -> Result<SealedKey, KmsError> {
        self.kms.decrypt_for_recipient(&self.control_plane, request, now())
    }

    #[track_caller]
    fn refuses(&self, code: &str, request: DecryptForRecipient) {
        assert_eq!(self.decrypt(request).unwrap_err().code(), code);
    }

    fn plain(&self, sealed: &SealedKey) -> VolumeKey {
        let context = Context { host: HostId::from_random(1), volume: self.volume.clone() };
        self.card.open(&sealed.sealed_key.0, &context).unwrap()
    }
}

#[track_caller]
fn code<T>(result: Result<T, KmsError>) -> &'static str {
    result.err().unwrap().code()
}

#[test]
fn the_granted_card_opens_the_same_key_every_time_and_no_other_card_does() {
    let scene = Scene::new();
    let first = scene.decrypt(scene.request.clone()).unwrap();
    let second = scene.decrypt(scene.request.clone()).unwrap();
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
    let open = |caller: &str| scene.kms.decrypt_for_recipient(&who(caller), scene.request.clone(), now());
    open("azote:service/volumes").unwrap();
    for caller in [
        "azote:tenant/acme",
        "azote:operator/alice",
        "azote:service/tokens",
        "azote:host/h-00000000000000001",
    ] {
        assert_eq!(code(open(caller)), "kms.denied", "{caller}");
    }
}

#[test]
fn a_grant_is_for_one_key_one_volume_and_one_host_until_it_is_retired() {
    let scene = Scene::new();
    let Scene { kms, acme, key, volume, request, .. } = &scene;
    let token = &scene.grant.grant_token;
    for bad in
        ["", "x", &token[..token.len() - 1], &format!("{}A", token.0), &token.replace("grant-", "grand-")]
    {
        scene.refuses(
            "kms.grant",
            DecryptForRecipient { grant_token: GrantToken(bad.to_owned()), ..request.clone() },
        );
    }
    let mut forged = token.clone().0.into_bytes();
    let last = forged.len() - 3;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    scene.refuses("kms.grant", DecryptForRecipient { grant_token: GrantToken(forged), ..request.clone() });

    let other_key = kms.create_key(acme, CreateKey {}, 0).unwrap().key_id;
    let other = kms.create_grant(acme, grant_for(&other_key, 1, volume), now()).unwrap();
    scene.refuses("kms.grant", DecryptForRecipient { grant_token: other.grant_token, ..request.clone() });

    let elsewhere = VolumeId::from_random(2);
    let other = kms.create_grant(acme, grant_for(key, 1, &elsewhere), now()).unwrap();
    scene.refuses("kms.context", DecryptForRecipient { grant_token: other.grant_token, ..request.clone() });
    let encryption_context = EncryptionContext::of_volume(&elsewhere);
    scene.refuses("kms.context", DecryptForRecipient { encryption_context, ..request.clone() });
    scene.refuses(
        "kms.context",
        DecryptForRecipient { encryption_context: EncryptionContext::default(), ..request.clone() },
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
    scene.refuses("kms.grant", request.clone());
    assert_eq!(code(kms.retire_grant(acme, by_id(), 0)), "kms.grant");
}

#[test]
fn the_recipient_must_be_certified_now_for_the_host_of_the_grant() {
    let scene = Scene::new();
    let with = |(host_certificate, card_key_certificate): (String, Bytes)| DecryptForRecipient {
        host_certificate,
        card_key_certificate,
        ..scene.request.clone()
    };
    let card = &scene.card;
    let own = with(host(&scene.ca, 1, 1, card, now()));
    scene.decrypt(own.clone()).unwrap();
    scene.refuses("kms.recipient", with(host(&scene.ca, 2, 2, card, now())));
    scene.refuses("kms.recipient", with(host(&scene.ca, 2, 1, card, now())));
    scene.refuses("kms.recipient", with(host(&scene.ca, 1, 2, card, now())));
    scene.refuses("kms.recipient", with(host(&scene.ca, 1, 1, card, now() - 61)));
    scene.refuses("kms.recipient", with(host(&scene.ca, 1, 1, card, now() + 60)));
    let elsewhere = tempfile::tempdir().unwrap();
    let forger = Ca::create(elsewhere.path()).unwrap();
    scene.refuses("kms.recipient", with(host(&forger, 1, 1, card, now())));
    let other = host(&scene.ca, 1, 1, card, now());
    scene.refuses("kms.recipient", DecryptForRecipient { card_key_certificate: other.1, ..own.clone() });
    scene.refuses("kms.recipient", DecryptForRecipient { host_certificate: String::new(), ..own.clone() });
    scene
        .refuses("kms.recipient", DecryptForRecipient { card_key_certificate: Bytes(vec![]), ..own.clone() });
    let later = scene.kms.decrypt_for_recipient(&scene.control_plane, own.clone(), now() + 2 * DAY);
    assert_eq!(code(later), "kms.grant-expired");
    // A service with a host's name in its certificate's place: the kind counts.
    let key = Key::generate().unwrap();
    let tenant = who("azote:tenant/h-00000000000000001");
    let chain = scene.ca.issue(&key.request().unwrap(), &tenant, false, Duration::from_secs(DAY)).unwrap();
    let certificate = CardKeyCertificate {
        host: HostId::from_random(1),
        public_key: *card.public(),
        not_before: now(),
        not_after: now() + 60,
    };
    scene.refuses("kms.recipient", with((chain, Bytes(certificate.sign(key.pair()).unwrap()))));
    let mut long = grant_for(&scene.key, 1, &scene.volume);
    long.seconds = MAX_GRANT_LIFE;
    let grant_token = scene.kms.create_grant(&scene.acme, long, now() + DAY).unwrap().grant_token;
    let long = DecryptForRecipient { grant_token, ..own.clone() };
    let later = scene.kms.decrypt_for_recipient(&scene.control_plane, long, now() + DAY + 60);
    assert_eq!(code(later), "kms.recipient");
}

#[test]
fn a_changed_or_foreign_ciphertext_is_refused() {
    let scene = Scene::new();
    let Bytes(good) = scene.request.ciphertext_blob.clone();
    let with = |blob: Vec<u8>| DecryptForRecipient { ciphertext_blob: Bytes(blob), ..scene.request.clone() };
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
    scene.refuses("kms.ciphertext", DecryptForRecipient { encryption_context, ..scene.request.clone() });
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
    let sealed = scene.decrypt(scene.request.clone()).unwrap();
    let data_key = scene.plain(&sealed);
    let record = scene.kms.store.key(&scene.key).unwrap().unwrap();
    let customer_key = scene.kms.unwrap(&scene.key, &record).unwrap();
    let Scene { kms, store, ca, card, volume, request, control_plane, _dir, .. } = scene;
    drop(kms);
    let bytes = std::fs::read(&store).unwrap();
    let token_secret = request.grant_token.rsplit('.').next().unwrap().as_bytes();
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
    assert!(Kms::open(&store, other, String::new()).is_err());
    let kms = Kms::open(&store, root(), ca.certificate().to_owned()).unwrap();
    let again = kms.decrypt_for_recipient(&control_plane, request, now()).unwrap();
    let context = Context { host: HostId::from_random(1), volume };
    assert_eq!(card.open(&again.sealed_key.0, &context).unwrap().expose(), data_key.expose());
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
    let Scene { kms, control_plane, request, grant, acme, key, volume, .. } = &Scene::new();
    let at = |now| kms.decrypt_for_recipient(control_plane, request.clone(), now);
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
    let Scene { request, grant, .. } = &Scene::new();
    let by_token = RetireGrant::ByToken { grant_token: grant.grant_token.clone() };
    for printed in [format!("{request:?}"), format!("{grant:?}"), format!("{by_token:?}")] {
        assert!(!printed.contains(grant.grant_token.rsplit('.').next().unwrap()), "{printed}");
    }
}
