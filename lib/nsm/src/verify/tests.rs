use super::*;
use crate::{
    CardKey, Chain, Digest, HostKey, Issuer, Module, Request, Response,
    document::{encode, to_be_signed, write},
    of_host, of_instance,
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
};
use std::{rc::Rc, sync::LazyLock};
use time::OffsetDateTime;

/// 2026-11-21.
const NOW: Duration = Duration::from_millis(1_795_219_200_123);
const DAY: Duration = Duration::from_secs(86_400);

fn instance() -> InstanceId {
    InstanceId::from_random(1)
}

fn host() -> HostId {
    HostId::from_random(2)
}

/// A key, and the certificate that it gets.
struct Paper {
    key: KeyPair,
    params: CertificateParams,
}

/// `below` authorities may be below it; none if it is none itself.
fn paper(name: &str, below: Option<u8>) -> Paper {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{name}.azote"));
    params.is_ca = below.map_or(IsCa::ExplicitNoCa, |below| IsCa::Ca(BasicConstraints::Constrained(below)));
    let usage =
        if below.is_some() { KeyUsagePurpose::KeyCertSign } else { KeyUsagePurpose::DigitalSignature };
    params.key_usages = vec![usage];
    let at =
        |time: Duration| OffsetDateTime::from_unix_timestamp(time.as_secs().try_into().unwrap()).unwrap();
    (params.not_before, params.not_after) = (at(NOW - DAY), at(NOW + DAY));
    Paper { key: KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), params }
}

/// Root first, the document's own last.
fn papers() -> Vec<Paper> {
    let [instance, host] = [instance().to_string(), host().to_string()];
    let leaf = format!("{instance}-enc0123456789abcdef");
    vec![
        paper("root", Some(3)),
        paper("environment", Some(2)),
        paper(&host, Some(1)),
        paper(&instance, Some(0)),
        paper(&leaf, None),
    ]
}

/// Each certified by the one before it.
fn certified(papers: &[Paper]) -> Vec<Vec<u8>> {
    let issuer = |at: usize| rcgen::Issuer::from_params(&papers[at].params, &papers[at].key);
    let signed = |(at, paper): (usize, &Paper)| {
        paper.params.signed_by(&paper.key, &issuer(at.saturating_sub(1))).unwrap().der().to_vec()
    };
    papers.iter().enumerate().map(signed).collect()
}

fn payload(certificates: &[Vec<u8>]) -> Payload {
    let (leaf, bundle) = certificates.split_last().unwrap();
    let bytes = |bytes: &Vec<u8>| ByteBuf::from(bytes.clone());
    Payload {
        module_id: format!("{}-enc0123456789abcdef", instance()),
        digest: Digest::SHA384,
        timestamp: NOW.as_millis().try_into().unwrap(),
        pcrs: (0..16).map(|index| (index.into(), vec![index; 48].into())).collect(),
        certificate: bytes(leaf),
        cabundle: bundle.iter().map(bytes).collect(),
        public_key: None,
        user_data: None,
        nonce: Some(b"nonce".to_vec().into()),
    }
}

fn signed(payload: &[u8], key: &KeyPair) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), &to_be_signed(payload).unwrap()).unwrap();
    write(payload, signature.as_ref()).unwrap()
}

fn judged(document: &[u8], root: &[u8]) -> Result<Statement, (Code, String)> {
    verify(document, &Question { root, now: NOW, ..Question::default() })
        .map_err(|refusal| (refusal.code, refusal.entry))
}

/// What is said of a document with these papers, its payload changed after that.
fn with(papers: &[Paper], change: impl FnOnce(&mut Payload)) -> Result<Statement, (Code, String)> {
    let certificates = certified(papers);
    let mut payload = payload(&certificates);
    change(&mut payload);
    judged(&signed(&encode(&payload).unwrap(), &papers.last().unwrap().key), &certificates[0])
}

fn refused(code: Code, entry: &str) -> Result<Statement, (Code, String)> {
    Err((code, entry.to_owned()))
}

/// A document of a module, and the root's certificate.
static DOCUMENT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let host_key = HostKey::derive(&[3; 32]).unwrap();
    let request = CertificateSigningRequestParams::from_pem(&host_key.request().unwrap()).unwrap();
    let papers = papers();
    let mut certificates = certified(&papers[..2]);
    let environment = rcgen::Issuer::from_params(&papers[1].params, &papers[1].key);
    let holder = papers[2].params.signed_by(&request.public_key, &environment).unwrap();
    certificates.push(holder.der().to_vec());
    let root = certificates[0].clone();
    certificates.reverse();
    let card = Rc::new(CardKey::generate().unwrap());
    let chain = Chain::new(certificates).unwrap();
    let chain = host_key.certify(&chain, &instance(), card.public(), NOW).unwrap();
    let issuer = Issuer::new(card, chain).unwrap();
    let registers = [of_instance(&instance()), of_host(Some(&[9; 32]), &[7; 2 * 72])].concat();
    let mut module = Module::new(&instance(), &registers, NOW, 7).unwrap();
    let field = |bytes: &[u8]| Some(bytes.to_vec().into());
    let request =
        Request::Attestation { user_data: field(b"user"), nonce: field(b"nonce"), public_key: None };
    let answer = module.handle(&encode(&request).unwrap(), MAX_RESPONSE, Some(&issuer), NOW);
    match ciborium::from_reader(answer.as_slice()).unwrap() {
        Response::Attestation { document } => (document.into_vec(), root),
        other => panic!("{other:?}"),
    }
});

#[test]
fn a_document_shows_who_asked_for_it_and_what_it_started_from() {
    let (document, root) = &*DOCUMENT;
    let (instance, host, log) = (instance(), host(), of_host(Some(&[9; 32]), &[7; 2 * 72]));
    let registers = [5, 6].map(|index| (index, vec![[0; 48], extended(index, &log)]));
    let question = Question {
        root,
        now: NOW,
        nonce: Some(b"nonce"),
        instance: Some(&instance),
        host: Some(&host),
        registers: registers.into(),
    };
    let statement = verify(document, &question).unwrap();
    assert_eq!((&statement.instance, &statement.host), (&instance, &host));
    assert!(statement.module.starts_with(&format!("{instance}-enc")));
    assert_eq!((statement.signed, statement.registers.len()), (NOW, 16));
    assert_eq!(statement.registers[&4], extended(4, &of_instance(&instance)));
    assert_eq!(statement.user_data.as_deref(), Some(&b"user"[..]));
    assert_eq!((statement.nonce.as_deref(), statement.public_key), (Some(&b"nonce"[..]), None));

    let other = [[1; 48]].to_vec();
    for (question, code, entry) in [
        (Question { root: b"other", ..question.clone() }, Code::Chain, "root certificate"),
        (Question { now: NOW + 2 * DAY, ..question.clone() }, Code::Time, "document certificate"),
        (Question { now: NOW - 2 * DAY, ..question.clone() }, Code::Time, "document certificate"),
        (Question { now: NOW + DAY / 2, ..question.clone() }, Code::Time, "document certificate"),
        (Question { nonce: Some(b"other"), ..question.clone() }, Code::Nonce, "nonce"),
        (Question { nonce: Some(b""), ..question.clone() }, Code::Nonce, "nonce"),
        (
            Question { instance: Some(&InstanceId::from_random(9)), ..question.clone() },
            Code::Instance,
            instance.as_str(),
        ),
        (Question { host: Some(&HostId::from_random(9)), ..question.clone() }, Code::Host, host.as_str()),
        (
            Question { registers: [(5, other.clone())].into(), ..question.clone() },
            Code::Register,
            "register 5",
        ),
        (Question { registers: [(5, Vec::new())].into(), ..question.clone() }, Code::Register, "register 5"),
        (Question { registers: [(16, other)].into(), ..question.clone() }, Code::Missing, "register 16"),
    ] {
        let refusal = verify(document, &question).unwrap_err();
        assert_eq!((refusal.code, refusal.entry.as_str()), (code, entry));
        assert!(refusal.to_string().starts_with(entry) && refusal.code.as_str().starts_with("document."));
    }
}

#[test]
fn no_byte_of_a_document_can_change() {
    let (document, root) = &*DOCUMENT;
    judged(document, root).unwrap();
    for at in 0..document.len() {
        let mut changed = document.clone();
        changed[at] ^= 1;
        assert!(judged(&changed, root).is_err(), "byte {at}");
        assert!(judged(&document[..at], root).is_err(), "cut at {at}");
    }
    assert!(judged(&[document.as_slice(), &[0]].concat(), root).is_err());
    assert!(judged(&[&[0xd2], document.as_slice()].concat(), root).is_err(), "with a tag");
}

#[test]
fn certificates_must_lead_to_the_root_one_by_one_each_doing_what_it_may() {
    const CHAIN: &str = "certificate chain";
    type Change = fn(&mut Vec<Paper>);
    assert_eq!(with(&papers(), |_| ()).unwrap().host, host());
    let cases: [(&str, Change, Code, &str); 11] = [
        (
            "a host that certifies another host",
            |p| p.insert(3, paper(&HostId::from_random(9).to_string(), Some(0))),
            Code::Chain,
            CHAIN,
        ),
        (
            "an instance that certifies another",
            |p| p.insert(4, paper(instance().as_str(), Some(0))),
            Code::Chain,
            CHAIN,
        ),
        ("no authority", |p| p[3].params.is_ca = IsCa::ExplicitNoCa, Code::Chain, CHAIN),
        (
            "an authority's own key",
            |p| p[4].params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Code::Chain,
            CHAIN,
        ),
        (
            "one that may not certify",
            |p| p[2].params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Code::Chain,
            "host certificate",
        ),
        ("one that may not sign", |p| p[4].params.key_usages.clear(), Code::Chain, "document certificate"),
        (
            "another curve",
            |p| p[2].key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            Code::Chain,
            CHAIN,
        ),
        ("no host", |p| drop(p.remove(2)), Code::Chain, "host certificate"),
        ("no instance", |p| drop(p.remove(3)), Code::Chain, "instance certificate"),
        (
            "another use",
            |p| p[4].params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth],
            Code::Chain,
            CHAIN,
        ),
        ("over", |p| p[1].params.not_after -= 2 * DAY, Code::Time, "environment certificate"),
    ];
    for (name, change, code, entry) in cases {
        let mut papers = papers();
        change(&mut papers);
        assert_eq!(with(&papers, |_| ()), refused(code, entry), "{name}");
    }
    let swap = |payload: &mut Payload| payload.cabundle.swap(1, 2);
    assert!(with(&papers(), swap).is_err(), "another order");
    let (one, other) = (certified(&papers()), papers());
    let foreign = signed(&encode(&payload(&one)).unwrap(), &other[4].key);
    assert_eq!(judged(&foreign, &one[0]), refused(Code::Signature, "signature"));
    let mut mixed = one.clone();
    mixed[4] = certified(&other)[4].clone();
    let mixed = signed(&encode(&payload(&mixed)).unwrap(), &other[4].key);
    assert_eq!(judged(&mixed, &one[0]), refused(Code::Chain, CHAIN));
}

#[test]
fn what_a_host_signs_is_still_held_to_the_format() {
    type Change = fn(&mut Payload);
    let cases: [(Change, Code, &str); 12] = [
        (|p| drop(p.pcrs.insert(32, vec![0; 48].into())), Code::Malformed, "register 32"),
        (|p| drop(p.pcrs.insert(16, vec![0; 47].into())), Code::Malformed, "register 16"),
        (|p| p.nonce = Some(vec![0; MAX_FIELD + 1].into()), Code::Malformed, "nonce"),
        (|p| p.user_data = Some(vec![0; MAX_FIELD + 1].into()), Code::Malformed, "user_data"),
        (|p| p.public_key = Some(vec![0; MAX_FIELD + 1].into()), Code::Malformed, "public_key"),
        (|p| p.user_data = Some(vec![0; MAX_DOCUMENT].into()), Code::Malformed, "document"),
        (|p| p.certificate = vec![0x30; 40].into(), Code::Malformed, "document certificate"),
        (|p| p.certificate = vec![0; MAX_CERTIFICATE + 1].into(), Code::Malformed, "document certificate"),
        (|p| p.cabundle.truncate(2), Code::Malformed, "cabundle"),
        (|p| p.cabundle = vec![p.certificate.clone(); MAX_CHAIN + 1], Code::Malformed, "cabundle"),
        (|p| p.timestamp += 2 * 86_400_000, Code::Time, "timestamp"),
        (
            |p| p.module_id = format!("{}-enc0123456789abcdef", InstanceId::from_random(9)),
            Code::Instance,
            "module_id",
        ),
    ];
    for (change, code, entry) in cases {
        assert_eq!(with(&papers(), change), refused(code, entry));
    }
    // The same in another encoding is not the same.
    let papers = papers();
    let certificates = certified(&papers);
    let payload = encode(&payload(&certificates)).unwrap();
    let key = &papers[4].key;
    assert!(judged(&signed(&payload, key), &certificates[0]).is_ok());
    let indefinite = [&[0xbf], &payload[1..], &[0xff]].concat();
    for other in [indefinite, [payload.as_slice(), &[0]].concat(), Vec::new()] {
        assert_eq!(judged(&signed(&other, key), &certificates[0]), refused(Code::Malformed, "payload"));
    }
}

proptest! {
    #[test]
    fn reading_a_document_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(judged(&bytes, &DOCUMENT.1), refused(Code::Malformed, "document"));
        let document = write(&bytes, &[1; 96]).unwrap();
        prop_assert_eq!(judged(&document, &DOCUMENT.1), refused(Code::Malformed, "payload"));
    }

    #[test]
    fn a_document_with_bytes_of_others_is_refused(
        at in 0..DOCUMENT.0.len(), with in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let (document, root) = &*DOCUMENT;
        let mut changed = document.clone();
        let end = document.len().min(at + with.len());
        changed.splice(at..end, with);
        prop_assert!(changed == *document || judged(&changed, root).is_err());
    }
}
