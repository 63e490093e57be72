//! A hostile guest against the attestation card's function: registers, configuration space, rings, requests.
#![no_main]

#[path = "../../host/cards/attestation/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hostile::play(bytes);
});
