//! Requests of a guest to its Nitro Security Module, and chains of certificates for it.
#![no_main]

use nsm::{Chain, Module, Request, Response};
use std::time::Duration;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Chain::new(vec![bytes.to_vec()]);
    let instance = "i-0123456789abcdef0".parse().unwrap();
    let mut module = Module::new(&instance, &[], Duration::from_secs(1_795_000_000), 7).unwrap();
    let answer = module.handle(bytes, nsm::MAX_RESPONSE, None, Duration::from_secs(1_795_000_001));
    assert!(ciborium::from_reader::<Response, _>(answer.as_slice()).is_ok());
    if let Ok(request) = Request::decode(bytes) {
        let mut again = Vec::new();
        ciborium::into_writer(&request, &mut again).unwrap();
        assert_eq!(Request::decode(&again), Ok(request));
    }
});
