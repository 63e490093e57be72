//! What decides who a host is: TPM keys and approvals, the host's side of an enrolment, revocation lists, certificates of
//! erasure. The first byte says which.
#![no_main]

use attest::{Erasure, lab::Lab};
use libfuzzer_sys::fuzz_target;
use service::Trust;
use std::sync::LazyLock;

static LAB: LazyLock<(Lab, attest::Policy)> = LazyLock::new(|| {
    let lab = Lab::default();
    let policy = lab.policy();
    (lab, policy)
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 5 {
        0 => {
            if let Ok(approval) = tpm::Approval::decode(rest) {
                assert_eq!(approval.encode(), rest);
            }
        }
        1 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return };
            let length = usize::from(u16::from_be_bytes(*length));
            let (ek, ak) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            let _ = (tpm::name(ek), tpm::endorsement_point(ek), tpm::check_attestation_key(ak));
            if let Ok(made) = tpm::make_credential(ek, ak, &[1; 32]) {
                assert!(!made.object.is_empty() && !made.secret.is_empty());
            }
        }
        2 => {
            if let Ok(request) = serde_json::from_slice::<pki::Request>(rest) {
                let text = serde_json::to_vec(&request).unwrap();
                assert_eq!(serde_json::from_slice::<pki::Request>(&text).unwrap(), request);
            }
        }
        3 => {
            let text = String::from_utf8_lossy(rest);
            if let Ok(trust) = Trust::new(&text) {
                let _ = service::certified_by(&trust.pem(), &text, 1_800_000_000);
            }
            let trust = Trust::new(&LAB.0.authority).unwrap();
            assert!(trust.offer(&text).is_err(), "nobody else signs for this authority");
        }
        _ => {
            if let Ok(erasure) = serde_json::from_slice::<Erasure>(rest) {
                assert!(erasure.verify(&LAB.1).is_err());
            }
        }
    }
});
