//! An instance's document, as whoever gets it reads it. The first byte chooses what the rest is. What lies behind a
//! signature is the input itself, signed by a key that the root leads to, so that it is reached too.
#![no_main]

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use ciborium::Value;
use libfuzzer_sys::fuzz_target;
use nsm::{Question, Refusal, Statement, verify};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use std::{sync::LazyLock, time::Duration};

const NAMES: [&str; 5] = [
    "root.azote",
    "environment.azote",
    "h-0123456789abcdef0.azote",
    "i-0123456789abcdef0.azote",
    "i-0123456789abcdef0-enc0123456789abcdef.azote",
];
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// Well within the lives of certificates that name none.
const NOW: Duration = Duration::from_secs(1_795_000_000);

/// Certificates, root first, and the document's key.
static PAPERS: LazyLock<(Vec<Vec<u8>>, EcdsaKeyPair)> = LazyLock::new(|| {
    let papers: Vec<_> = NAMES
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, *name);
            let below = 3_u8.checked_sub(at as u8);
            params.is_ca =
                below.map_or(IsCa::ExplicitNoCa, |below| IsCa::Ca(BasicConstraints::Constrained(below)));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            (KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), params)
        })
        .collect();
    let issuer = |at: usize| rcgen::Issuer::from_params(&papers[at].1, &papers[at].0);
    let signed = |at: usize| papers[at].1.signed_by(&papers[at].0, &issuer(at.saturating_sub(1))).unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &papers[4].0.serialize_der()).unwrap();
    ((0..5).map(|at| signed(at).der().to_vec()).collect(), key)
});

fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn signed(payload: &[u8]) -> Vec<u8> {
    let [protected, none, payload] = [&PROTECTED[..], &[], payload].map(|bytes| Value::Bytes(bytes.to_vec()));
    let message = cbor(&Value::Array(vec!["Signature1".into(), protected.clone(), none, payload.clone()]));
    let signature = PAPERS.1.sign(&SystemRandom::new(), &message).unwrap();
    let signature = Value::Bytes(signature.as_ref().to_vec());
    cbor(&Value::Array(vec![protected, Value::Map(Vec::new()), payload, signature]))
}

/// A good payload.
fn payload() -> [(&'static str, Value); 9] {
    let (leaf, bundle) = PAPERS.0.split_last().unwrap();
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    [
        ("module_id", NAMES[4].strip_suffix(".azote").unwrap().into()),
        ("digest", "SHA384".into()),
        ("timestamp", (NOW.as_millis() as u64).into()),
        ("pcrs", Value::Map(vec![(0.into(), bytes(&[0; 48]))])),
        ("certificate", bytes(leaf)),
        ("cabundle", Value::Array(bundle.iter().map(|der| bytes(der)).collect())),
        ("public_key", Value::Null),
        ("user_data", Value::Null),
        ("nonce", bytes(b"nonce")),
    ]
}

/// The root that a document brings itself, and its time.
fn of_its_own(document: &[u8]) -> Option<(Vec<u8>, Duration)> {
    let parts = ciborium::from_reader::<Value, _>(document).ok()?.into_array().ok()?;
    let entries =
        ciborium::from_reader::<Value, _>(parts.get(2)?.as_bytes()?.as_slice()).ok()?.into_map().ok()?;
    let time = u64::try_from(entries.get(2)?.1.as_integer()?).ok()?;
    Some((entries.get(5)?.1.as_array()?.first()?.as_bytes()?.clone(), Duration::from_millis(time)))
}

fn judged(document: &[u8], root: &[u8], now: Duration) -> Result<Statement, Refusal> {
    let judged = verify(document, &Question { root, now, ..Question::default() });
    if let Ok(statement) = &judged {
        assert!(statement.module.starts_with(statement.instance.as_str()) && statement.registers.len() <= 32);
    }
    judged
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let root = &PAPERS.0[0];
    let with = |change: &dyn Fn(&mut [(&'static str, Value); 9])| {
        let mut entries = payload();
        change(&mut entries);
        let entries = entries.map(|(name, value)| (name.into(), value));
        judged(&signed(&cbor(&Value::Map(entries.into()))), root, NOW)
    };
    let bytes = || Value::Bytes(rest.to_vec());
    match kind {
        0 => assert!(judged(rest, root, NOW).is_err(), "nobody signed this"),
        1 => {
            let (root, now) = of_its_own(rest).unwrap_or_default();
            let _ = judged(rest, &root, now);
        }
        2 => drop(judged(&signed(rest), root, NOW)),
        3 => assert!(with(&|entries| entries[4].1 = bytes()).is_err(), "nobody certified this"),
        4..8 => {
            let above = usize::from(kind - 4);
            let good = with(&|entries| entries[5].1.as_array_mut().unwrap()[above] = bytes());
            assert!(good.is_err(), "nobody certified this");
        }
        kind => {
            assert!(with(&|_| ()).is_ok());
            let Ok(value) = ciborium::from_reader::<Value, _>(rest) else { return };
            let _ = with(&|entries| entries[usize::from(kind % 9)].1 = value.clone());
        }
    }
});
