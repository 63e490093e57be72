//! The main job with everything real: UEFI, Debian's kernel, QEMU, swtpm, and every process of the house.
//! `cargo xtask test` builds the programs that this starts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Down, azote, code, json};
use serde_json::{Value, json as value};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

#[test]
fn linux_boots_from_an_encrypted_volume_through_the_only_door() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("demo");
    let output = azote(&state, &["demo"]);
    let report = json(&output);
    let promises = report["promises"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    let broken: Vec<&Value> = promises.iter().filter(|promise| promise["held"] != true).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(output.status.success());
    for step in 1..=9 {
        assert!(promises.iter().any(|promise| promise["step"] == step), "step {step} promised nothing");
    }
    assert!(!state.exists(), "the demo leaves nothing behind");
}

#[test]
fn a_host_with_changed_firmware_stays_in_reset_and_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    let status = json(&azote(&state, &["status"]));
    assert_eq!(
        (&status["in_service"], &status["chip"]["reset_held"]),
        (&Value::Bool(true), &Value::Bool(false)),
        "{status:#}"
    );
    let again = azote(&state, &["up"]);
    assert_eq!((again.status.code(), code(&again)), (Some(1), "host.already-up".to_owned()));
    assert!(azote(&state, &["down"]).status.success());

    let flash = state.join("flash/code.bin");
    let mut bytes = fs::read(&flash).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&flash, bytes).unwrap();
    azote(&state, &["up"]);
    let status = json(&azote(&state, &["status"]));
    assert_eq!(
        (&status["in_service"], &status["chip"]["reset_held"]),
        (&Value::Bool(false), &Value::Bool(true)),
        "{status:#}"
    );
    let volume = json(&azote(&state, &["volume", "create", "--size", "1"]));
    let attach = azote(&state, &["volume", "attach", volume["id"].as_str().unwrap()]);
    assert_eq!(attach.status.code(), Some(1));
    assert_ne!(json(&attach)["error"]["code"], Value::Null);
}

#[test]
fn a_killed_process_is_named_and_down_and_up_bring_the_host_back() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    let volume = json(&azote(&state, &["volume", "create", "--size", "1"]));
    let record = fs::read_to_string(state.join("run/kms.pid")).unwrap();
    let pid = record.split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    for words in [&["key", "create"][..], &["up"]] {
        let refused = azote(&state, words);
        assert_eq!(
            (refused.status.code(), code(&refused)),
            (Some(1), "host.partly-up".to_owned()),
            "{words:?}"
        );
        assert!(json(&refused)["error"]["message"].as_str().unwrap().contains("kms"));
    }
    assert!(azote(&state, &["down"]).status.success());
    assert_eq!(code(&azote(&state, &["status"])), "host.not-up");
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    assert_eq!(json(&azote(&state, &["volume", "list"]))[0]["id"], volume["id"]);
    assert!(azote(&state, &["volume", "attach", volume["id"].as_str().unwrap()]).status.success());
    assert!(azote(&state, &["volume", "create", "--image", "/"]).status.code() == Some(1));
    assert_eq!(
        json(&azote(&state, &["volume", "list"])).as_array().unwrap().len(),
        1,
        "no half volume is left"
    );
}

#[test]
fn signing_keys_rotate_under_a_running_host_and_no_call_fails() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    let keys = |words: &[&str]| json(&azote(&state, &[&["tokens"], words].concat()));
    let first = keys(&["keys"]);
    let rotated = keys(&["rotate"]);
    assert_eq!(
        (&rotated["taken"], &rotated["keys"]["signing"]),
        (&value!(1), &first["signing"]),
        "{rotated:#}"
    );
    assert_eq!(code(&azote(&state, &["tokens", "rotate"])), "keys.under-way");
    let (mut calls, deadline) = (0, Instant::now() + Duration::from_secs(60));
    loop {
        let status = azote(&state, &["status"]);
        assert!(status.status.success(), "call {calls}: {:#}", json(&status));
        calls += 1;
        if keys(&["keys"])["signing"] != first["signing"] {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    assert!(azote(&state, &["status"]).status.success(), "a token of the new key");
    assert_eq!(keys(&["push"])["taken"], 0, "the host has them all");
    for words in ["down", "up", "status"] {
        assert!(azote(&state, &[words]).status.success(), "{words}");
    }
    let log = json(&azote(&state, &["log"]));
    assert!(log.to_string().contains("keys.switched"), "the change is in the audit log");
}

#[test]
fn usage_errors_and_missing_hosts_have_their_own_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("none");
    assert_eq!(azote(&state, &["volume", "attach", "not-a-volume"]).status.code(), Some(2));
    let output = azote(&state, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["error"]["message"].as_str().unwrap().contains("azote up"));
    assert_eq!(code(&output), "state.none");
    assert_eq!(code(&azote(&state, &["volume", "create", "--size", "5KiB"])), "usage");
    assert_eq!(code(&azote(&state, &["console"])), "host.not-up");
    let closed = Command::new("sh")
        .args([
            "-c",
            "\"$0\" completions bash | true; \"$0\" --json status >/dev/full",
            env!("CARGO_BIN_EXE_azote"),
        ])
        .env("AZOTE_STATE", &state)
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&closed.stderr).contains("panicked"), "{closed:?}");
    let completions =
        Command::new(env!("CARGO_BIN_EXE_azote")).args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8_lossy(&completions.stdout).contains("_azote"));
}
