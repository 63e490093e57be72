use super::*;
use aws_lc_rs::{
    digest::{SHA384, digest},
    signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey},
};
use ciborium::Value;
use ids::{HostId, InstanceId};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384};
use std::{rc::Rc, time::Duration};
use x509_parser::{parse_x509_certificate, prelude::X509Certificate};

/// 2026-11-21.
const MILLISECONDS: u64 = 1_795_219_200_123;
const NOW: Duration = Duration::from_millis(MILLISECONDS);

fn instance() -> InstanceId {
    "i-0a22e5c5f24d22174".parse().unwrap()
}

/// A root for the host's key, and the host's chain.
fn host_chain(host: &HostKey) -> Chain {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&root_key).unwrap();
    let request = rcgen::CertificateSigningRequestParams::from_pem(&host.request().unwrap()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, host_name(&HostId::from_random(1)));
    let issuer = rcgen::Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
    let holder = params.signed_by(&request.public_key, &issuer).unwrap();
    Chain::new(vec![holder.der().to_vec(), root.der().to_vec()]).unwrap()
}

fn issuer() -> Issuer {
    let host = HostKey::derive(&[3; 32]).unwrap();
    let card = Rc::new(CardKey::generate().unwrap());
    let chain = host.certify(&host_chain(&host), &instance(), card.public(), NOW).unwrap();
    Issuer::new(card, chain).unwrap()
}

fn module(registers: &[Extension]) -> Module {
    Module::new(&instance(), registers, NOW, 0xabcd).unwrap()
}

fn cbor(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn ask(module: &mut Module, request: &Request, issuer: Option<&Issuer>, now: Duration) -> Response {
    let answer = module.handle(&cbor(request), MAX_RESPONSE, issuer, now);
    ciborium::from_reader(answer.as_slice()).unwrap()
}

fn attestation(user_data: &[u8], nonce: &[u8], public_key: &[u8]) -> Request {
    let some = |bytes: &[u8]| Some(bytes.to_vec().into());
    Request::Attestation { user_data: some(user_data), nonce: some(nonce), public_key: some(public_key) }
}

fn document(module: &mut Module, request: &Request, issuer: &Issuer, now: Duration) -> Vec<u8> {
    match ask(module, request, Some(issuer), now) {
        Response::Attestation { document } => document.into_vec(),
        other => panic!("{other:?}"),
    }
}

type Entries = Vec<(Value, Value)>;

/// The four parts of a COSE_Sign1, the payload's entries, and its certificates, leaf first.
fn take_apart(document: &[u8]) -> (Vec<Value>, Entries, Vec<Vec<u8>>) {
    let parts = ciborium::from_reader::<Value, _>(document).unwrap().into_array().unwrap();
    let payload = parts[2].as_bytes().unwrap();
    let entries = ciborium::from_reader::<Value, _>(payload.as_slice()).unwrap().into_map().unwrap();
    let mut certificates = vec![entries[4].1.as_bytes().unwrap().clone()];
    let bundle = entries[5].1.as_array().unwrap().iter().rev();
    certificates.extend(bundle.map(|der| der.as_bytes().unwrap().clone()));
    (parts, entries, certificates)
}

fn x509(der: &[u8]) -> X509Certificate<'_> {
    parse_x509_certificate(der).unwrap().1
}

#[test]
fn a_document_has_the_published_form_and_its_signatures_hold() {
    let mut module = module(&of_instance(&instance()));
    let bytes = document(&mut module, &attestation(b"user", b"nonce", b"key"), &issuer(), NOW);
    let (parts, entries, certificates) = take_apart(&bytes);
    // Untagged, ES384, no unprotected header, a definite map of nine, r and s.
    assert_eq!((&bytes[..7], bytes[0]), (&[0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0][..], 0x84));
    assert_eq!(parts[2].as_bytes().unwrap()[0], 0xa9);
    let names: Vec<_> = entries.iter().map(|(name, _)| name.as_text().unwrap()).collect();
    let wanted = ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key"];
    assert_eq!(names, [&wanted[..], &["user_data", "nonce"]].concat());
    assert_eq!(entries[0].1.as_text().unwrap(), format!("i-0a22e5c5f24d22174-enc{:012x}abcd", MILLISECONDS));
    assert_eq!(entries[0].1.as_text().unwrap(), module.id());
    assert_eq!(entries[1].1, "SHA384".into());
    assert_eq!(entries[2].1, MILLISECONDS.into());
    let pcrs = entries[3].1.as_map().unwrap();
    let indexes: Vec<_> =
        pcrs.iter().map(|(index, _)| u16::try_from(index.as_integer().unwrap()).unwrap()).collect();
    assert_eq!(indexes, (0..16).collect::<Vec<_>>());
    assert!(pcrs.iter().all(|(_, value)| value.as_bytes().unwrap().len() == 48));
    let fields: Vec<_> = entries[6..].iter().map(|(_, value)| value.as_bytes().unwrap().as_slice()).collect();
    assert_eq!(fields, [&b"key"[..], b"user", b"nonce"]);

    let signed = cbor(&Value::Array(vec![
        "Signature1".into(),
        parts[0].clone(),
        Value::Bytes(Vec::new()),
        parts[2].clone(),
    ]));
    let leaf = x509(&certificates[0]);
    let key = leaf.public_key().subject_public_key.data.to_vec();
    let signature = parts[3].as_bytes().unwrap();
    assert_eq!(signature.len(), 96);
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(&signed, signature).unwrap();
    for pair in certificates.windows(2) {
        let (below, above) = (x509(&pair[0]), x509(&pair[1]));
        below.verify_signature(Some(above.public_key())).unwrap();
        assert_eq!(below.issuer(), above.subject());
        assert!(pair[0].len() <= MAX_CERTIFICATE);
    }
}

#[test]
fn a_documents_certificates_live_as_long_as_they_should() {
    let mut module = module(&[]);
    let bytes = document(&mut module, &attestation(b"", b"", b""), &issuer(), NOW);
    let (.., certificates) = take_apart(&bytes);
    let (leaf, instance) = (x509(&certificates[0]), x509(&certificates[1]));
    let life = |certificate: &X509Certificate<'_>| {
        let validity = certificate.validity();
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        (NOW.as_secs() as i64 - from, to - NOW.as_secs() as i64)
    };
    assert_eq!((life(&leaf), life(&instance)), ((3, 3 * 60 * 60), (3, 24 * 60 * 60)));
    assert_eq!(leaf.subject().to_string(), format!("O=Azote, CN={}.azote", module.id()));
    assert_eq!(instance.subject().to_string(), "O=Azote, CN=i-0a22e5c5f24d22174.azote");
    let serial = [&(MILLISECONDS << 16 | 0xabcd).to_be_bytes()[..], &NOW.as_secs().to_be_bytes()].concat();
    assert_eq!(leaf.raw_serial(), serial);
    let usage = |certificate: &X509Certificate<'_>| certificate.key_usage().unwrap().unwrap().value.flags;
    assert_eq!((usage(&leaf), usage(&instance)), (0b11, 1 << 5));
    let constraints = |certificate: &X509Certificate<'_>| {
        let found = certificate.basic_constraints().unwrap().unwrap().value;
        (found.ca, found.path_len_constraint)
    };
    assert_eq!((constraints(&leaf), constraints(&instance)), ((false, None), (true, Some(0))));
}

#[test]
fn a_key_signs_documents_for_an_hour_and_only_under_the_certificate_that_holds() {
    let (first, second) = (issuer(), issuer());
    let mut module = module(&[]);
    let mut leaf = |issuer: &Issuer, minutes: u64| {
        let now = NOW + Duration::from_secs(60 * minutes);
        take_apart(&document(&mut module, &attestation(b"", b"", b""), issuer, now)).2.swap_remove(0)
    };
    let begun = leaf(&first, 0);
    assert_eq!(leaf(&first, 59), begun);
    let next = leaf(&first, 60);
    assert_ne!(next, begun);
    assert_ne!(leaf(&second, 61), next, "the instance has another certificate");
    let after = NOW + INSTANCE_LIFETIME + Duration::from_secs(1);
    for (issuer, now) in [(Some(&first), after), (Some(&first), NOW - Duration::from_secs(9)), (None, NOW)] {
        let answer = ask(&mut module, &attestation(b"", b"", b""), issuer, now);
        assert_eq!(answer, Response::Error(ErrorCode::InternalError));
    }
}

#[test]
fn only_locked_registers_are_in_a_document() {
    let mut module = module(&[]);
    assert_eq!(ask(&mut module, &Request::LockPCR { index: 20 }, None, NOW), Response::LockPCR);
    let extend = Request::ExtendPCR { index: 17, data: b"kept".to_vec().into() };
    assert!(matches!(ask(&mut module, &extend, None, NOW), Response::ExtendPCR { .. }));
    let (_, entries, _) = take_apart(&document(&mut module, &attestation(b"", b"", b""), &issuer(), NOW));
    let pcrs = entries[3].1.as_map().unwrap();
    assert_eq!((pcrs.len(), &pcrs[16].0), (17, &Value::from(20)));
}

#[test]
fn certificates_count_for_the_key_that_is_here_alone() {
    let (host, other) = (HostKey::derive(&[1; 32]).unwrap(), HostKey::derive(&[2; 32]).unwrap());
    let (chain, card) = (host_chain(&host), CardKey::generate().unwrap());
    assert!(host.is_certified_by(&chain) && HostKey::derive(&[1; 32]).unwrap().is_certified_by(&chain));
    let refused = other.certify(&chain, &instance(), card.public(), NOW);
    assert_eq!(refused.err(), Some(CertificateError::Key));
    assert_eq!(host.certify(&chain, &instance(), b"short", NOW).err(), Some(CertificateError::Malformed));
    let certified = host.certify(&chain, &instance(), card.public(), NOW).unwrap();
    assert_eq!(certified.ends(), (NOW + INSTANCE_LIFETIME).as_secs());
    let foreign = Rc::new(CardKey::generate().unwrap());
    assert_eq!(Issuer::new(foreign, certified).err(), Some(CertificateError::Key));
    assert_eq!(Chain::new(Vec::new()).err(), Some(CertificateError::Malformed));
    assert_eq!(Chain::new(vec![vec![0x30; 40]]).err(), Some(CertificateError::Malformed));
    let many = vec![chain.certificates()[0].clone(); MAX_CHAIN + 1];
    assert_eq!(Chain::new(many).err(), Some(CertificateError::Malformed));
    assert_eq!(Chain::from_pem("nothing").err(), Some(CertificateError::Malformed));
}

#[test]
fn requests_are_encoded_as_the_published_clients_do_it() {
    let text = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    // Written by aws-nitro-enclaves-nsm-api 0.5.2.
    for (hex, request) in [
        ("6b44657363726962654e534d", Request::DescribeNSM),
        ("6947657452616e646f6d", Request::GetRandom),
        ("a16b4465736372696265504352a165696e64657803", Request::DescribePCR { index: 3 }),
        (
            "a169457874656e64504352a265696e6465781064646174614461626364",
            Request::ExtendPCR { index: 16, data: b"abcd".to_vec().into() },
        ),
        ("a1684c6f636b50435273a16572616e67651820", Request::LockPCRs { range: 32 }),
        (
            "a16b4174746573746174696f6ea369757365725f646174614101656e6f6e6365f66a7075626c69635f6b6579f6",
            Request::Attestation { user_data: Some(vec![1].into()), nonce: None, public_key: None },
        ),
    ] {
        let bytes = text(hex);
        assert_eq!(Request::decode(&bytes), Ok(request.clone()), "{hex}");
        assert_eq!(cbor(&request), bytes);
    }
}

#[test]
fn what_is_no_request_is_refused_with_its_code() {
    let mut module = module(&[]);
    let mut refused = |bytes: &[u8]| {
        let answer = module.handle(bytes, MAX_RESPONSE, None, NOW);
        match ciborium::from_reader(answer.as_slice()).unwrap() {
            Response::Error(code) => code,
            other => panic!("{other:?}"),
        }
    };
    let map = |name: &str, value: Value| cbor(&Value::Map(vec![(name.into(), value)]));
    let with = |name: &str, value: Value| Value::Map(vec![(name.into(), value)]);
    assert_eq!(refused(b""), ErrorCode::InvalidArgument);
    assert_eq!(refused(&[0xff; 40]), ErrorCode::InvalidArgument);
    assert_eq!(refused(&vec![0x81; MAX_REQUEST]), ErrorCode::InvalidArgument);
    assert_eq!(refused(&vec![0; MAX_REQUEST + 1]), ErrorCode::InputTooLarge);
    assert_eq!(refused(&cbor(&"Reset")), ErrorCode::InvalidOperation);
    assert_eq!(refused(&cbor(&"LockPCR")), ErrorCode::InvalidArgument);
    assert_eq!(refused(&[cbor(&"GetRandom"), vec![0]].concat()), ErrorCode::InvalidArgument);
    assert_eq!(refused(&map("DescribePCR", with("index", 70_000.into()))), ErrorCode::InvalidArgument);
    assert_eq!(refused(&map("DescribePCR", with("index", 32.into()))), ErrorCode::InvalidIndex);
    assert_eq!(refused(&map("LockPCRs", with("range", 33.into()))), ErrorCode::InvalidIndex);
    assert_eq!(refused(&map("LockPCR", with("index", 3.into()))), ErrorCode::ReadOnlyIndex);
    let long = Request::ExtendPCR { index: 16, data: vec![0; MAX_EXTENSION + 1].into() };
    assert_eq!(refused(&cbor(&long)), ErrorCode::InputTooLarge);
    let long = attestation(&[0; MAX_FIELD + 1], b"", b"");
    assert_eq!(refused(&cbor(&long)), ErrorCode::InputTooLarge);
}

#[test]
fn an_answer_that_does_not_fit_is_none() {
    let (mut module, issuer) = (module(&[]), issuer());
    let largest = attestation(&[1; MAX_FIELD], &[2; MAX_FIELD], &[3; MAX_FIELD]);
    for index in 16..PCRS {
        ask(&mut module, &Request::LockPCR { index }, None, NOW);
    }
    let whole = module.handle(&cbor(&largest), MAX_RESPONSE, Some(&issuer), NOW);
    assert!(whole.len() > 3 * MAX_FIELD && whole.len() < MAX_RESPONSE);
    let answer = module.handle(&cbor(&largest), whole.len() - 1, Some(&issuer), NOW);
    let answer: Response = ciborium::from_reader(answer.as_slice()).unwrap();
    assert_eq!(answer, Response::Error(ErrorCode::BufferTooSmall));
}

#[test]
fn registers_mean_what_they_mean_for_enclaves() {
    let (kernel, line, disk) = (b"kernel", "console=ttyS0", b"disk");
    let registers = [
        of_machine(kernel, line, Some(disk)),
        of_instance(&instance()),
        of_host(Some(&[9; 32]), &[7; 3 * 72]),
    ];
    let mut module = module(&registers.concat());
    let mut value = |index| match ask(&mut module, &Request::DescribePCR { index }, None, NOW) {
        Response::DescribePCR { lock, data } => (lock, data.into_vec()),
        other => panic!("{other:?}"),
    };
    let hash = |bytes: &[u8]| digest(&SHA384, bytes).as_ref().to_vec();
    let extend = |old: &[u8], data: &[u8]| hash(&[old, data].concat());
    let image = extend(&[0; 48], &hash(b"kernelconsole=ttyS0disk"));
    assert_eq!(value(0), (true, image.clone()));
    assert_eq!(value(1), (true, image));
    assert_eq!(value(2), (true, extend(&[0; 48], &hash(b""))));
    assert_eq!(value(3), (true, vec![0; 48]));
    // The one value of this kind that is known from a document that AWS signed.
    assert_eq!(value(4), (true, extend(&[0; 48], b"i-0a22e5c5f24d22174")));
    assert_eq!(value(5), (true, extend(&[0; 48], &[9; 32])));
    let log = (0..3).fold(vec![0; 48], |old, _| extend(&old, &[7; 72]));
    assert_eq!(value(6), (true, log));
    assert_eq!(value(16), (false, vec![0; 48]));
}

proptest! {
    #[test]
    fn a_locked_register_never_changes_and_none_is_ever_opened(
        acts in proptest::collection::vec((0..3u8, 0..40u16, proptest::collection::vec(any::<u8>(), 0..600)), 0..60),
    ) {
        let mut bank = Bank::default();
        for (act, index, data) in acts {
            let before = bank.clone();
            let locked = before.describe(index).map(|(locked, _)| locked);
            let result = match act {
                0 => bank.extend(index, &data).map(drop),
                1 => bank.lock(index),
                _ => bank.lock_first(index),
            };
            for (index, value) in before.locked() {
                prop_assert_eq!(bank.describe(index).unwrap(), (true, value));
            }
            match (act, locked) {
                (2, _) => prop_assert_eq!(result.is_ok(), index <= PCRS),
                (_, Err(_)) => prop_assert_eq!(result, Err(PcrError::Index)),
                (_, Ok(true)) => prop_assert_eq!(result, Err(PcrError::Locked)),
                (0, Ok(false)) => prop_assert_eq!(result.is_ok(), data.len() <= MAX_EXTENSION),
                _ => prop_assert_eq!(result, Ok(())),
            }
            prop_assert!(result.is_ok() || bank == before);
        }
    }

    #[test]
    fn whatever_a_guest_sends_it_is_answered_within_its_room(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), room in 64..2000usize,
    ) {
        let answer = module(&[]).handle(&bytes, room, None, NOW);
        prop_assert!(answer.len() <= room);
        ciborium::from_reader::<Response, _>(answer.as_slice()).unwrap();
    }

    #[test]
    fn what_is_encoded_is_read(index in any::<u16>(), data in proptest::collection::vec(any::<u8>(), 0..512)) {
        for request in [
            Request::ExtendPCR { index, data: data.clone().into() },
            Request::LockPCRs { range: index },
            attestation(&data, &data, &data),
        ] {
            prop_assert_eq!(Request::decode(&cbor(&request)), Ok(request));
        }
    }
}
