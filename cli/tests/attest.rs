//! What a host shows, judged by the command: on the running installation, and offline.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Down, azote, code, json};
use serde_json::Value;
use std::{fs, path::Path};

/// A file with one place of its JSON changed.
fn altered(path: &Path, to: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(to, value.to_string()).unwrap();
}

#[test]
fn a_host_is_judged_on_the_spot_offline_and_before_a_tenant_gives_it_a_key() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, file) = (scratch.path().join("host"), |name: &str| scratch.path().join(name));
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let _down = Down(&state);
    assert!(azote(&state, &["up"]).status.success());
    let (policy, strict, evidence, bad) = (text("policy"), text("strict"), text("evidence"), text("bad"));
    assert!(azote(&state, &["attest", "policy", "--or-later", "--out", &policy]).status.success());
    let asked = azote(&state, &["attest", "--policy", &policy, "--save", &evidence]);
    let appraisal = json(&asked);
    assert!(asked.status.success(), "{appraisal:#}");
    assert_eq!(appraisal["host"], json(&azote(&state, &["status"]))["host"]);
    let refused = |words: &[&str]| {
        let output = azote(&state, &[&["attest"], words].concat());
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        code(&output)
    };
    altered(&file("policy"), &file("strict"), |policy| policy["configuration"] = 99.into());
    assert_eq!(refused(&["--policy", &strict]), "attest.rollback");
    assert_eq!(refused(&["--policy", &text("none")]), "attest.policy-empty");
    assert_eq!(refused(&["policy", "--environment", "production"]), "attest.environment");

    // A tenant's demand: no key reaches a host that does not meet it.
    let volume = json(&azote(&state, &["volume", "create", "--size", "4MiB"]));
    let volume = volume["id"].as_str().unwrap();
    let attach = |policy: &str| azote(&state, &["volume", "attach", volume, "--host-policy", policy]);
    assert_eq!(code(&attach(&strict)), "attest.rollback");
    let attached = attach(&policy);
    assert!(attached.status.success(), "{:#}", json(&attached));
    let start = azote(&state, &["instance", "start", volume, "--host-policy", &strict]);
    assert_eq!(code(&start), "attest.rollback");

    // Offline, when nothing is up any more.
    assert!(azote(&state, &["down"]).status.success());
    let kept = ["--evidence", &evidence, "--policy", &policy];
    let again = azote(&state, &[&["attest"][..], &kept].concat());
    assert_eq!(json(&again), appraisal);
    let zero = "A".repeat(43);
    assert_eq!(refused(&[&kept[..], &["--nonce", &zero]].concat()), "attest.nonce");
    assert_eq!(refused(&[&kept[..], &["--at", "1000000000"]].concat()), "attest.expired");
    altered(&file("evidence"), &file("bad"), |kept| {
        kept["evidence"]["events"][0]["sha256"] = "0".repeat(64).into();
    });
    assert_eq!(refused(&["--evidence", &bad, "--policy", &policy]), "attest.log");
    altered(&file("evidence"), &file("bad"), |kept| kept["evidence"]["events"][2]["what"] = "other".into());
    assert_eq!(refused(&["--evidence", &bad, "--policy", &policy]), "attest.entry");
    fs::write(&bad, "{}").unwrap();
    assert_eq!(refused(&["--evidence", &bad, "--policy", &policy]), "attest.malformed");
}
