use super::*;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use proptest::prelude::*;

/// A key as a TPM would hold it.
struct SetKey(EcdsaKeyPair);

impl SetKey {
    fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// `TPM2B_PUBLIC` (part 2, §12.2.5) of an ECDSA key on P-256.
    fn public(&self) -> Vec<u8> {
        let point = &self.0.public_key().as_ref()[1..];
        let mut public =
            vec![0, 0x23, 0, 0x0b, 0, 4, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
        for half in point.chunks(32) {
            public.extend([&[0, 32], half].concat());
        }
        [&u16::try_from(public.len()).unwrap().to_be_bytes()[..], &public].concat()
    }

    /// `TPMT_SIGNATURE` (part 2, §11.3.4).
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0, 0x18, 0, 0x0b, 0, 32], r, &[0, 32], s].concat()
    }

    fn signed(&self, set: Set) -> Signed {
        let approval = [&[0, 0, 7, 0][..], &[0; 12], &[5; 32], &self.sign(b"policy")].concat();
        let approval = Approval::decode(&approval).unwrap();
        let signature = self.sign(&Set::message(&set.encode().unwrap()));
        Signed { set, signature, early: approval.clone(), store: approval }
    }
}

fn event(pcr: u8, name: &str, digest: u8) -> Event {
    Event::new(pcr, name, &[digest; 32]).unwrap()
}

fn events(list: &[(u8, &str, u8)]) -> Events {
    let mut events = Events::new();
    list.iter().for_each(|(pcr, name, digest)| events.push(event(*pcr, name, *digest)).unwrap());
    events
}

const START: [(u8, &str, u8); 8] = [
    (8, "root key", 1),
    (8, "stage 1", 2),
    (9, "release", 3),
    (9, "controller", 4),
    (10, "configuration", 5),
    (10, "policies", 6),
    (11, "volume card", 7),
    (12, "main-board firmware", 8),
];

fn set(list: &[(u8, &str, u8)]) -> Set {
    Set {
        sequence: 4,
        svn: 2,
        environment: Environment::Production,
        security_key: true,
        root: PublicKey([9; 32]),
        configuration: 3,
        manifest: vec![1, 2, 3],
        events: events(list),
        sums: BTreeMap::from([([6; 32], [16; 32]), ([7; 32], [17; 32])]),
    }
}

fn changed(at: usize) -> Vec<(u8, &'static str, u8)> {
    let mut list = START.to_vec();
    list[at].2 ^= 0xff;
    list
}

#[test]
fn the_first_entry_that_differs_is_named_with_its_code() {
    let set = set(&START);
    assert_eq!(set.difference(&events(&START)), None);
    let codes = [
        "boot.release",
        "boot.release",
        "boot.release",
        "boot.release",
        "boot.configuration",
        "boot.policies",
        "boot.image",
        "boot.firmware",
    ];
    for (at, code) in codes.into_iter().enumerate() {
        let expected = Difference { pcr: START[at].0, entry: START[at].1.to_owned(), code };
        assert_eq!(set.difference(&events(&changed(at))), Some(expected.clone()), "changed");
        assert_eq!(set.difference(&events(&START[..at])), Some(expected.clone()), "cut");
        let twice = [&START[..=at], &START[at..]].concat();
        assert!(set.difference(&events(&twice)).is_some(), "twice");
        let named = Event::new(START[at].0, "another name", &[START[at].2; 32]).unwrap();
        let mut renamed = Events::new();
        events(&START)
            .iter()
            .enumerate()
            .for_each(|(n, e)| renamed.push(if n == at { named } else { e }).unwrap());
        assert_eq!(set.difference(&renamed), Some(expected), "renamed");
    }
    let more = [&START[..], &[(11, "attestation card", 1)]].concat();
    assert_eq!(set.difference(&events(&more)).unwrap().entry, "attestation card");
}

#[test]
fn registers_that_nothing_was_measured_into_are_zero() {
    let values = set(&START[4..]).values(EARLY);
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), [8, 9, 10]);
    assert_eq!((values[&8], values[&9]), ([0; 32], [0; 32]));
    assert_eq!(values[&10], sha256(&[sha256(&[[0; 32], [5; 32]].concat()), [6; 32]].concat()));
}

#[test]
fn the_set_of_the_start_that_goes_on_is_chosen() {
    let key = SetKey::generate();
    let with = |release: u8, configuration: u8, firmware: u8| {
        let mut list = START;
        (list[2].2, list[4].2, list[7].2) = (release, configuration, firmware);
        list
    };
    let sets = [with(3, 5, 8), with(3, 5, 9), with(30, 50, 9)];
    let known_good = KnownGood { key: key.public(), sets: sets.map(|list| key.signed(set(&list))).to_vec() };
    let handed = |release| events(&[START[0], START[1], (9, "release", release), START[3]]);
    let choose = |release, firmware| {
        let chosen =
            known_good.choose(&handed(release), &[event(12, "main-board firmware", firmware)]).unwrap();
        known_good.sets.iter().position(|signed| signed == chosen).unwrap()
    };
    assert_eq!([choose(3, 8), choose(3, 9), choose(30, 9)], [0, 1, 2]);
    assert_eq!(choose(3, 77), 0, "other firmware: the present release's own set says what differs");
    assert_eq!(choose(30, 8), 2, "the next release without its firmware");
    assert_eq!(choose(99, 8), 0, "a release that nobody installed");
}

fn file(key: &SetKey) -> KnownGood {
    let sets = vec![key.signed(set(&START)), key.signed(set(&changed(5)))];
    KnownGood { key: key.public(), sets }
}

#[test]
fn a_file_reads_back_and_every_changed_bit_is_found() {
    let key = SetKey::generate();
    let known_good = file(&key);
    let bytes = known_good.encode().unwrap();
    assert_eq!(KnownGood::decode(&bytes), Ok(known_good.clone()));
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        match KnownGood::decode(&bad) {
            Ok(read) => assert!((10..26).contains(&at) && read == known_good, "the producer is for people"),
            Err(SetError::Version(_)) => assert!((8..10).contains(&at)),
            Err(_) => {}
        }
        assert!(KnownGood::decode(&bytes[..at]).is_err());
    }
    assert!(KnownGood::decode(&[&bytes[..], &[0]].concat()).is_err());
    for sets in [0, MAX_SETS + 1] {
        let sets = vec![known_good.sets[0].clone(); sets];
        assert_eq!(KnownGood { key: key.public(), sets }.encode(), None);
    }
}

#[test]
fn what_another_key_signed_is_no_set_whatever_the_checksum_says() {
    let (key, other) = (SetKey::generate(), SetKey::generate());
    let mut forged = file(&key);
    forged.sets[1] = other.signed(set(&START));
    assert_eq!(KnownGood::decode(&forged.encode().unwrap()), Err(SetError::Signature));
    let mut altered = file(&key);
    altered.sets[0].set.svn = 0;
    assert_eq!(KnownGood::decode(&altered.encode().unwrap()), Err(SetError::Signature));
    let mut swapped = file(&key);
    swapped.sets[0].signature = swapped.sets[1].signature.clone();
    assert_eq!(KnownGood::decode(&swapped.encode().unwrap()), Err(SetError::Signature));
}

proptest! {
    #[test]
    fn hostile_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(KnownGood::decode(&bytes).is_err());
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let framed = [&MAGIC[..], &[0, 1], &[0; 16], &length, &sha256(&bytes), &bytes].concat();
        let _ = KnownGood::decode(&framed);
        if let Some(set) = Set::decode(&bytes) {
            prop_assert_eq!(set.encode().unwrap(), bytes);
        }
    }
}
