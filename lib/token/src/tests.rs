use crate::*;
use ciborium::Value;
use coset::{
    CborSerializable, CoseSign1Builder, Header, HeaderBuilder, TaggedCborSerializable, iana::Algorithm,
};
use ids::{HostId, VolumeId};
use proptest::prelude::*;
use std::sync::LazyLock;

type Map = Vec<(Value, Value)>;
const NOW: u64 = 1_800_000_000;
static SERVICE: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());
static HOLDER: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());

fn volume(n: u128) -> Resource {
    Resource::Volume(VolumeId::from_random(n))
}

fn claims() -> Claims {
    Claims {
        issuer: "azote:service/tokens".parse().unwrap(),
        subject: "azote:tenant/acme".parse().unwrap(),
        audience: HostId::from_random(1),
        expires: NOW + 900,
        not_before: NOW,
        issued: NOW,
        id: [7; 16],
        holder: PublicKey::of(&HOLDER),
        apis: vec![Api::AttachVolume, Api::DetachVolume],
        resources: vec![Resource::Host(HostId::from_random(1)), volume(2)],
        uses: 3,
    }
}

fn verifier() -> Verifier {
    let other = PublicKey::of(&Ed25519KeyPair::generate().unwrap());
    Verifier::new(Keys::new(vec![other, PublicKey::of(&SERVICE)]).unwrap(), HostId::from_random(1))
}

fn call(token: &str) -> Call<'_> {
    Call { method: "POST", path: "/v1/volumes/attach", body: b"{}", token }
}

/// Signs any payload under any headers, as a token service gone wrong might.
fn sign_raw(payload: Vec<u8>, protected: Header, unprotected: Header) -> coset::CoseSign1 {
    CoseSign1Builder::new()
        .protected(protected)
        .unprotected(unprotected)
        .payload(payload)
        .create_signature(b"", |message| SERVICE.sign(message).as_ref().to_vec())
        .build()
}

fn eddsa() -> HeaderBuilder {
    HeaderBuilder::new().algorithm(Algorithm::EdDSA)
}

fn payload(token: &str) -> Vec<u8> {
    cose::parse(&cose::from_base64(token).unwrap()).unwrap().payload.unwrap()
}

#[test]
fn a_token_says_what_was_signed_and_allows_exactly_that() {
    let token = claims().sign(&SERVICE).unwrap();
    let read = verifier().verify(&token, NOW).unwrap();
    assert_eq!(read, claims());
    assert_eq!(read.id_text(), "07".repeat(16));
    read.authorize(Api::AttachVolume, &[volume(2)]).unwrap();
    read.authorize(Api::DetachVolume, &[]).unwrap();
    assert_eq!(read.authorize(Api::StartInstance, &[volume(2)]), Err(Refusal::TokenApi));
    assert_eq!(read.authorize(Api::AttachVolume, &[volume(2), volume(3)]), Err(Refusal::TokenResource));
}

#[test]
fn time_and_audience_are_exact() {
    let token = claims().sign(&SERVICE).unwrap();
    let verifier = verifier();
    verifier.verify(&token, NOW + 899).unwrap();
    verifier.verify(&token, NOW - SKEW).unwrap();
    assert_eq!(verifier.verify(&token, NOW - SKEW - 1), Err(Refusal::TokenNotYetValid));
    assert_eq!(verifier.verify(&token, NOW + 900), Err(Refusal::TokenExpired));
    assert_eq!(verifier.verify(&token, u64::MAX), Err(Refusal::TokenExpired));
    let other = Claims { audience: HostId::from_random(9), ..claims() }.sign(&SERVICE).unwrap();
    assert_eq!(verifier.verify(&other, NOW), Err(Refusal::TokenAudience));
    assert_eq!(verifier.open(&other).unwrap().audience, HostId::from_random(9));
}

#[test]
fn another_signer_is_refused() {
    let token = claims().sign(&HOLDER).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Err(Refusal::TokenSignature));
    assert!(Keys::new(vec![]).is_none());
    assert!(Keys::new(vec![PublicKey([0; 32]); 3]).is_none());
}

#[test]
fn claims_out_of_bounds_are_neither_signed_nor_taken() {
    let many = |n: u128| (0..n).map(volume).collect::<Vec<_>>();
    assert!(Claims { resources: many(64), ..claims() }.sign(&SERVICE).is_ok());
    for bad in [
        Claims { resources: many(65), ..claims() },
        Claims { resources: vec![volume(1), volume(1)], ..claims() },
        Claims { apis: vec![], ..claims() },
        Claims { apis: vec![Api::ReadLog, Api::ReadLog], ..claims() },
        Claims { expires: NOW + MAX_LIFETIME + 1, ..claims() },
        Claims { issued: NOW - 1, expires: NOW + MAX_LIFETIME, ..claims() },
        Claims { expires: NOW, ..claims() },
        Claims { uses: 0, ..claims() },
        Claims { uses: MAX_USES + 1, ..claims() },
        Claims { not_before: NOW + 10, issued: NOW + 901, ..claims() },
    ] {
        assert_eq!(bad.sign(&SERVICE), Err(Refusal::TokenMalformed), "{bad:?}");
    }
    let text = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(verifier().verify(&text, NOW), Err(Refusal::TokenMalformed));
    let mut long = claims();
    long.expires = NOW + 2 * MAX_LIFETIME;
    let signed = signed_by_hand(&long);
    assert_eq!(verifier().verify(&signed, NOW), Err(Refusal::TokenMalformed));
}

/// A token whose expiry was replaced after encoding: the bounds of signing do not apply.
fn signed_by_hand(long: &Claims) -> String {
    let Value::Map(mut map) = cose::from_cbor(&payload(&claims().sign(&SERVICE).unwrap())).unwrap() else {
        panic!()
    };
    map[3].1 = long.expires.into();
    let bytes = sign_raw(cose::to_cbor(&Value::Map(map)).unwrap(), eddsa().build(), Header::default());
    cose::to_base64(&bytes.to_tagged_vec().unwrap())
}

#[test]
fn every_other_encoding_is_refused_although_the_service_signed_it() {
    let good = payload(&claims().sign(&SERVICE).unwrap());
    let none = Header::default;
    let Value::Map(map) = cose::from_cbor(&good).unwrap() else { panic!() };
    let with = |edit: &dyn Fn(&mut Map)| {
        let mut map = map.clone();
        edit(&mut map);
        cose::to_cbor(&Value::Map(map)).unwrap()
    };
    let mut indefinite = vec![0xbf];
    indefinite.extend_from_slice(&good[1..]);
    indefinite.push(0xff);
    let mut wide = good.clone();
    assert_eq!(wide[..2], [0xab, 0x01]);
    wide.splice(1..2, [0x18, 0x01]);
    let mut trailing = good.clone();
    trailing.push(0);
    let payloads = [
        with(&|m| m.swap(0, 1)),
        with(&|m| m.push((9.into(), 1.into()))),
        with(&|m| m.push(m[0].clone())),
        with(&|m| m[3].1 = Value::Float((NOW + 900) as f64)),
        with(&|m| m[2].1 = Value::Array(vec![m[2].1.clone()])),
        with(&|m| m[9].1 = Value::Array(vec!["volume/*".into()])),
        with(&|m| m[10].1 = 0.into()),
        with(&|m| m[10].1 = (MAX_USES + 1).into()),
        with(&|m| m[10].1 = Value::Integer((-1).into())),
        with(&|m| drop(m.pop())),
        indefinite,
        wide,
        trailing,
        vec![],
    ];
    let refuse = |bytes: Vec<u8>, what: &str| {
        let token = cose::to_base64(&bytes);
        assert_eq!(verifier().verify(&token, NOW), Err(Refusal::TokenMalformed), "{what}");
    };
    for (n, bytes) in payloads.into_iter().enumerate() {
        refuse(sign_raw(bytes, eddsa().build(), none()).to_tagged_vec().unwrap(), &format!("payload {n}"));
    }
    let raw = |protected, unprotected| sign_raw(good.clone(), protected, unprotected);
    refuse(raw(eddsa().build(), none()).to_vec().unwrap(), "untagged");
    refuse(raw(none(), eddsa().build()).to_tagged_vec().unwrap(), "algorithm not protected");
    refuse(raw(none(), none()).to_tagged_vec().unwrap(), "no algorithm");
    let es256 = HeaderBuilder::new().algorithm(Algorithm::ES256).build();
    refuse(raw(es256, none()).to_tagged_vec().unwrap(), "another algorithm");
    let crit = eddsa().add_critical_label(coset::RegisteredLabelWithPrivate::Text("x".into())).build();
    refuse(raw(crit, none()).to_tagged_vec().unwrap(), "critical header");
    let kid = HeaderBuilder::new().key_id(vec![1]).build();
    refuse(raw(eddsa().build(), kid).to_tagged_vec().unwrap(), "unprotected key id");
    let deep = [vec![0x81; 3000], vec![0]].concat();
    refuse(deep, "deeply nested");
}

#[test]
fn a_proof_is_for_one_request_once() {
    let token = claims().sign(&SERVICE).unwrap();
    let authorization = format!("Bearer {token}");
    let proof = call(&token).prove(&HOLDER, NOW).unwrap();
    let mut replay = ReplaySet::new(10, NOW - 100);
    let mut check = |authorization: Option<&str>, proof: Option<&str>, call: Call<'_>, now| {
        verifier().verify_call(authorization, proof, call, &mut replay, now)
    };
    let auth = Some(authorization.as_str());
    let this = call("");
    assert_eq!(check(None, Some(&proof), this, NOW), Err(Refusal::TokenMissing));
    assert_eq!(check(Some("Basic YTpi"), Some(&proof), this, NOW), Err(Refusal::TokenMissing));
    assert_eq!(check(Some("Bearer x"), Some(&proof), this, NOW), Err(Refusal::TokenMalformed));
    assert_eq!(check(auth, None, this, NOW), Err(Refusal::ProofMissing));
    assert_eq!(check(auth, Some("AAAA"), this, NOW), Err(Refusal::ProofMalformed));
    let stranger = call(&token).prove(&SERVICE, NOW).unwrap();
    assert_eq!(check(auth, Some(&stranger), this, NOW), Err(Refusal::ProofSignature));
    for other in
        [Call { method: "PUT", ..this }, Call { path: "/v1/status", ..this }, Call { body: b"{} ", ..this }]
    {
        assert_eq!(check(auth, Some(&proof), other, NOW), Err(Refusal::ProofMismatch));
    }
    let second = Claims { id: [8; 16], ..claims() }.sign(&SERVICE).unwrap();
    let authorization = format!("Bearer {second}");
    assert_eq!(check(Some(&authorization), Some(&proof), this, NOW), Err(Refusal::ProofMismatch));
    assert_eq!(check(auth, Some(&proof), this, NOW + PROOF_AGE + 1), Err(Refusal::ProofStale));
    let ahead = call(&token).prove(&HOLDER, NOW + PROOF_AHEAD + 1).unwrap();
    assert_eq!(check(auth, Some(&ahead), this, NOW), Err(Refusal::ProofStale));
    assert_eq!(check(auth, Some(&proof), this, NOW), Ok(claims()));
    assert_eq!(check(auth, Some(&proof), this, NOW + PROOF_AGE), Err(Refusal::ProofReplayed));
}

#[test]
fn a_full_replay_set_refuses_new_proofs_and_forgets_no_fresh_one() {
    let id = |n: u8, issued| ProofId { id: [n; 16], issued };
    let mut set = ReplaySet::new(2, NOW);
    assert_eq!(set.accept(&id(0, NOW - 1), NOW), Err(Refusal::ProofStale));
    set.accept(&id(1, NOW), NOW).unwrap();
    set.accept(&id(2, NOW + 5), NOW).unwrap();
    assert_eq!(set.accept(&id(3, NOW), NOW + 1), Err(Refusal::ProofOverload));
    assert_eq!(set.accept(&id(1, NOW), NOW + PROOF_AGE), Err(Refusal::ProofReplayed));
    let later = NOW + PROOF_AGE + 1;
    set.accept(&id(4, later), later).unwrap();
    assert_eq!(set.accept(&id(2, NOW + 5), NOW + PROOF_AGE + 5), Err(Refusal::ProofReplayed));
}

#[test]
fn a_clock_that_is_set_forward_and_back_revives_no_proof() {
    let id = |n: u8, issued| ProofId { id: [n; 16], issued };
    let mut set = ReplaySet::new(10, NOW);
    set.accept(&id(1, NOW), NOW).unwrap();
    let later = NOW + 10_000;
    set.accept(&id(2, later), later).unwrap();
    assert!(set.accept(&id(1, NOW), NOW + 1).is_err());
    set.accept(&id(3, NOW + 1), NOW + 1).unwrap();
    assert_eq!(set.accept(&id(3, NOW + 1), NOW + 2), Err(Refusal::ProofReplayed));
    assert_eq!(set.accept(&id(2, later), later), Err(Refusal::ProofReplayed));
}

#[test]
fn card_keys_are_certified_by_one_host_for_a_time() {
    let certificate = CardKeyCertificate {
        host: HostId::from_random(1),
        public_key: [9; 32],
        not_before: NOW,
        not_after: NOW + 10,
    };
    let bytes = certificate.sign(&HOLDER).unwrap();
    let verify =
        |bytes: &[u8], key: &Ed25519KeyPair, now| CardKeyCertificate::verify(bytes, &PublicKey::of(key), now);
    assert_eq!(verify(&bytes, &HOLDER, NOW + 10), Ok(certificate.clone()));
    assert_eq!(verify(&bytes, &HOLDER, NOW - 1), Err(CardKeyRefused::Time));
    assert_eq!(verify(&bytes, &HOLDER, NOW + 11), Err(CardKeyRefused::Time));
    assert_eq!(verify(&bytes, &SERVICE, NOW), Err(CardKeyRefused::Signature));
    for (not_after, taken) in [(NOW + MAX_LIFETIME, true), (NOW + MAX_LIFETIME + 1, false), (u64::MAX, false)]
    {
        let long = CardKeyCertificate { not_after, ..certificate.clone() }.sign(&HOLDER).unwrap();
        assert_eq!(verify(&long, &HOLDER, NOW).is_ok(), taken);
    }
    assert_eq!(verify(&[], &HOLDER, NOW), Err(CardKeyRefused::Malformed));
    // A proof by the same key is no certificate, nor the other way round.
    let token = claims().sign(&SERVICE).unwrap();
    let proof = cose::from_base64(&call(&token).prove(&HOLDER, NOW).unwrap()).unwrap();
    assert_eq!(verify(&proof, &HOLDER, NOW), Err(CardKeyRefused::Signature));
    let as_proof = cose::to_base64(&bytes);
    let refused = call(&token).verify(&as_proof, &PublicKey::of(&HOLDER), NOW);
    assert_eq!(refused, Err(Refusal::ProofSignature));
}

#[test]
fn keys_follow_one_another_and_only_forward() {
    let public = PublicKey::of;
    let (old, new) = (&*SERVICE, &*HOLDER);
    let keys = |list: &[&Ed25519KeyPair]| Keys::new(list.iter().map(|key| public(key)).collect()).unwrap();
    let both = KeySet { sequence: 1, keys: keys(&[old, new]) };
    let installed = keys(&[old]);
    assert_eq!(installed.follow(&both.sign(old).unwrap(), 0), Ok(both.clone()));
    assert_eq!(installed.follow(&both.sign(old).unwrap(), 1), Err(Refusal::KeysStale));
    assert_eq!(installed.follow(&both.sign(new).unwrap(), 0), Err(Refusal::KeysSignature));
    let alone = KeySet { sequence: 2, keys: keys(&[new]) };
    let signed = alone.sign(new).unwrap();
    assert_eq!(KeySet::sequence_of(&signed), Some(2));
    assert_eq!(both.keys.follow(&signed, 1), Ok(alone.clone()));
    assert_eq!(alone.keys.follow(&both.sign(old).unwrap(), 2), Err(Refusal::KeysSignature));
    // What the same key signed for another purpose is no key set, and keys are never lists of none or of twins.
    let token = cose::from_base64(&claims().sign(&SERVICE).unwrap()).unwrap();
    assert_eq!(installed.follow(&token, 0), Err(Refusal::KeysSignature));
    assert_eq!(Keys::new(vec![public(old), public(old)]), None);
    for list in [vec![], vec![public(old); 2], vec![public(old); 3]] {
        let list = list.iter().map(|key| Value::Bytes(key.0.to_vec())).collect();
        let payload = cose::to_cbor(&Value::Array(vec![1.into(), Value::Array(list)])).unwrap();
        let signed = cose::sign(old, payload, b"azote/token-keys/1").unwrap();
        assert_eq!(installed.follow(&signed, 0), Err(Refusal::KeysMalformed));
    }
    for bytes in [vec![], vec![0; MAX_TOKEN + 1]] {
        assert_eq!(installed.follow(&bytes, 0), Err(Refusal::KeysMalformed));
    }
}

#[test]
fn both_sides_of_a_request_know_its_id() {
    let token = claims().sign(&SERVICE).unwrap();
    let proof = call(&token).prove(&HOLDER, NOW).unwrap();
    let id = call(&token).verify(&proof, &PublicKey::of(&HOLDER), NOW).unwrap();
    assert_eq!(ProofId::peek(&proof), Some(id));
    assert_eq!(id.id_text().len(), 32);
    assert_eq!(ProofId::peek(&token), None);
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(at: prop::sample::Index, bit in 0..8_u32) {
        let token = claims().sign(&SERVICE).unwrap();
        let proof = call(&token).prove(&HOLDER, NOW).unwrap();
        let flip = |text: &str| {
            let mut bytes = cose::from_base64(text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            cose::to_base64(&bytes)
        };
        prop_assert!(verifier().open(&flip(&token)).is_err());
        prop_assert!(call(&token).verify(&flip(&proof), &PublicKey::of(&HOLDER), NOW).is_err());
    }

    #[test]
    fn any_changed_character_is_refused(at: prop::sample::Index, to in 0x20_u8..0x7f) {
        let token = claims().sign(&SERVICE).unwrap();
        let mut text = token.clone().into_bytes();
        let at = at.index(text.len());
        text[at] = to;
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(verifier().verify(&text, NOW).is_ok(), text == token);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let text = cose::to_base64(&bytes);
        prop_assert!(verifier().open(&text).is_err());
        prop_assert!(call("").verify(&text, &PublicKey::of(&HOLDER), NOW).is_err());
        prop_assert!(CardKeyCertificate::verify(&bytes, &PublicKey::of(&HOLDER), NOW).is_err());
        prop_assert!(Keys::new(vec![PublicKey::of(&SERVICE)]).unwrap().follow(&bytes, 0).is_err());
        prop_assert!(ProofId::peek(&text).is_none());
        let signed = sign_raw(bytes, eddsa().build(), Header::default()).to_tagged_vec().unwrap();
        prop_assert!(verifier().open(&cose::to_base64(&signed)).is_err());
    }

    #[test]
    fn what_decodes_encodes_to_the_same(
        expires in NOW + 1..NOW + 1000, apis in prop::sample::subsequence(Api::ALL.to_vec(), 1..=6), n in 0_u128..64
    ) {
        let claims = Claims { expires, apis, resources: (0..n).map(volume).collect(), ..claims() };
        prop_assert_eq!(verifier().open(&claims.sign(&SERVICE).unwrap()).unwrap(), claims);
    }
}

#[test]
fn a_token_is_bound_to_no_key_that_anybody_can_sign_for() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let weak = Claims { holder: PublicKey(identity), ..claims() };
    assert!(weak.sign(&SERVICE).is_err());
}
