//! What strangers and callers send to the token service: ID tokens, requests, its journal's pages and inventories as their
//! readers read them. The first byte chooses what the rest is. An ID token's parts are also put together around the
//! input and signed by the provider's key, so that the claims behind the signature check are reached.
#![no_main]

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use std::{path::Path, sync::LazyLock};
use token::PublicKey;
use tokens::{Inventory, Oidc, Page, client::TokenRequest, oidc::nonce};

const NOW: u64 = 1_800_000_000;
const SETTINGS: &str = "issuer = \"https://id.example\"\naudience = \"azote\"\njwks = \"keys\"\nclaim = \"sub\"\n[operators]\nalice = \"alice\"\n";

static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
static OIDC: LazyLock<Oidc> = LazyLock::new(|| {
    let x = String::from(PublicKey::of(&KEY));
    let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"1","x":"{x}"}}]}}"#);
    Oidc::parse(SETTINGS, |_: &Path| Ok(keys)).unwrap()
});

fn signed(head: &[u8], body: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(body));
    let signature = URL_SAFE_NO_PAD.encode(KEY.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let key = PublicKey::of(&KEY);
    let text = String::from_utf8_lossy(rest);
    match kind {
        0 => drop(OIDC.verify(&text, &key, NOW)),
        1 => drop(OIDC.verify(&signed(rest, b"{}"), &key, NOW)),
        2 => {
            let token = signed(br#"{"alg":"EdDSA","kid":"1"}"#, rest);
            if OIDC.verify(&token, &key, NOW).is_ok() {
                assert!(text.contains(&nonce(&key)), "bound to the key");
                assert!(OIDC.verify(&token, &PublicKey([0; 32]), NOW).is_err(), "and to no other");
            }
        }
        3 => {
            if let Ok(request) = serde_json::from_slice::<TokenRequest>(rest) {
                let again = serde_json::to_vec(&request).unwrap();
                serde_json::from_slice::<TokenRequest>(&again).unwrap();
            }
        }
        4 => drop(serde_json::from_slice::<Page>(rest)),
        5 => drop(Inventory::parse(&text)),
        6 => drop(Oidc::parse(&text, |_| Ok(r#"{"keys":[]}"#.to_owned()))),
        _ => drop(Oidc::parse(SETTINGS, |_| Ok(text.into_owned()))),
    }
});
