//! Tokens, proofs, key sets and card key certificates, as a host and the key service read them. The first byte chooses what
//! the rest is. The one under a signature is the input itself, signed by the key that is trusted, so that the
//! claims behind the signature check are reached too.
#![no_main]

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coset::{CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana::Algorithm};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use token::{Call, CardKeyCertificate, Keys, ProofId, PublicKey, Verifier};

static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());

fn signed(payload: &[u8], context: &[u8]) -> Vec<u8> {
    CoseSign1Builder::new()
        .protected(HeaderBuilder::new().algorithm(Algorithm::EdDSA).build())
        .payload(payload.to_vec())
        .create_signature(context, |message| KEY.sign(message).as_ref().to_vec())
        .build()
        .to_tagged_vec()
        .unwrap()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let key = PublicKey::of(&KEY);
    let verifier = Verifier::new(Keys::new(vec![key]).unwrap(), ids::HostId::from_random(1));
    let call = Call { method: "GET", path: "/v1/status", body: b"", token: "" };
    match kind {
        0 => drop(verifier.verify(&String::from_utf8_lossy(rest), 1)),
        1 => drop(verifier.verify(&URL_SAFE_NO_PAD.encode(rest), 1)),
        2 => {
            let token = URL_SAFE_NO_PAD.encode(signed(rest, b""));
            if let Ok(claims) = verifier.open(&token) {
                assert_eq!(claims.sign(&KEY).unwrap(), token, "one encoding");
            }
        }
        3 => drop(call.verify(&URL_SAFE_NO_PAD.encode(rest), &key, 1)),
        4 => drop(call.verify(&URL_SAFE_NO_PAD.encode(signed(rest, b"azote/proof/1")), &key, 1)),
        5 => drop(CardKeyCertificate::verify(rest, &key, 1)),
        6 => {
            let bytes = signed(rest, b"azote/card-key/1");
            if let Ok(certificate) = CardKeyCertificate::verify(&bytes, &key, 1) {
                assert_eq!(certificate.sign(&KEY).unwrap(), bytes, "one encoding");
            }
        }
        7 => drop(ProofId::peek(&String::from_utf8_lossy(rest))),
        _ => {
            let bytes = signed(rest, b"azote/token-keys/1");
            if let Ok(set) = Keys::new(vec![key]).unwrap().follow(&bytes, 0) {
                assert_eq!(set.sign(&KEY).unwrap(), bytes, "one encoding");
            }
        }
    }
});
