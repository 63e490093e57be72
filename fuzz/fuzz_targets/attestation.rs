//! A host's evidence, and policies, as whoever asks a host reads them. The first byte chooses what the rest is. What
//! lies behind a signature is the input itself, signed by the key that is trusted, so that it is reached too.
#![no_main]

use attest::{
    Bytes, Event, Evidence, NONCE, Policy, Question,
    lab::{Lab, NOW},
    verify,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use token::cose;

const NONCE_OF_OURS: [u8; NONCE] = [9; NONCE];

static GOOD: LazyLock<(Lab, Policy, Evidence)> = LazyLock::new(|| {
    let lab = Lab::default();
    let (policy, evidence) = (lab.policy(), lab.evidence(&NONCE_OF_OURS));
    (lab, policy, evidence)
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let (lab, policy, evidence) = &*GOOD;
    let (mut evidence, mut question) =
        (evidence.clone(), Question { nonce: &NONCE_OF_OURS, now: NOW, crl: None, seen: None });
    let list = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", STANDARD.encode(rest));
    let bytes = || Bytes(rest.to_vec());
    let signed = |key, context: &[u8]| Bytes(cose::sign(key, rest.to_vec(), context).unwrap());
    match kind {
        0 => {
            if let Ok(read) = Evidence::parse(rest) {
                assert_eq!(Evidence::parse(read.to_json().as_bytes()).as_ref(), Ok(&read), "it reads back");
                assert!(verify(&read, policy, &question).is_err(), "nobody certified this");
            }
            return;
        }
        1 => {
            let _ = Policy::parse(rest);
            return;
        }
        2 => question.crl = Some(&list),
        3 => evidence.certificate = String::from_utf8_lossy(rest).into_owned(),
        4 => evidence.attestation_key = bytes(),
        5 => evidence.signature = bytes(),
        6 => (evidence.signature, evidence.quote) = (Bytes(lab.sign(rest)), bytes()),
        7 => evidence.manifest = bytes(),
        8 => evidence.manifest = signed(&lab.root, b"azote/release/1"),
        9 => evidence.configuration = signed(&lab.root, b"azote/configuration/1"),
        10 => evidence.attestation_certificate = signed(&lab.authority_key, b"azote/ak/1"),
        _ => {
            let Ok(mut events) = serde_json::from_slice::<Vec<Event>>(rest) else { return };
            events.retain(|event| event.pcr <= tpm::MAX_PCR);
            evidence = lab.evidence_of(&NONCE_OF_OURS, events);
        }
    }
    let _ = verify(&evidence, policy, &question);
});
