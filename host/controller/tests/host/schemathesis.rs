//! The API document against a running host: schemathesis makes requests, good and bad, with real tokens and proofs.
//! It finds what the document does not say and what the host cannot answer.

use crate::rack::Rack;
use ids::VolumeId;
use std::{fs, path::Path, process::Command};
use token::Ed25519KeyPair;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/controller-v1.json");
/// Not among them is that all good data is accepted: a sealed key that no card can open is good data.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,negative_data_rejection";

/// The one operation after which there is no host.
const RESET: &str = "/v1/host/reset";

fn seed(key: &Ed25519KeyPair) -> String {
    use aws_lc_rs::encoding::AsBigEndian;
    key.seed().unwrap().as_be_bytes().unwrap().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
#[ignore = "needs schemathesis: `cargo xtask schemathesis`"]
fn no_request_finds_an_undocumented_answer_or_a_failure() {
    let program = std::env::var("AZOTE_SCHEMATHESIS").expect("run it by `cargo xtask schemathesis`");
    let examples = std::env::var("AZOTE_EXAMPLES").unwrap_or_else(|_| "20".to_owned());
    let rack = Rack::start_with_large_log();
    let volumes: Vec<_> = (1..=2).map(VolumeId::from_random).collect();
    for volume in &volumes {
        let path = rack.dir.path().join(format!("volumes/{volume}.img"));
        fs::File::create(path).unwrap().set_len(1 << 20).unwrap();
    }
    let authority = rack.dir.path().join("ca.pem");
    fs::write(&authority, rack.ca.certificate()).unwrap();
    let volumes = volumes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let run = |which: &str| {
        Command::new(&program)
            .args([
                "run",
                DOCUMENT,
                which,
                RESET,
                "--no-color",
                "--checks",
                CHECKS,
                "--max-examples",
                &examples,
            ])
            .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure"])
            .arg("--url")
            .arg(format!("https://{}", rack.address()))
            .arg("--tls-verify")
            .arg(&authority)
            .current_dir(rack.dir.path())
            .env("PYTHONPATH", HERE)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .env("AZOTE_DOCUMENT", Path::new(DOCUMENT))
            .env("AZOTE_HOST", rack.host.as_str())
            .env("AZOTE_VOLUMES", &volumes)
            .env("AZOTE_ISSUER", seed(&rack.issuer))
            .env("AZOTE_HOLDER", seed(&rack.holder))
            .status()
            .unwrap()
            .success()
    };
    // First while the host is not drained, and so refuses it: later it would be done, and end the host.
    let all = ["--include-path", "--exclude-path"].into_iter().all(run);
    assert!(all, "schemathesis found something");
}
