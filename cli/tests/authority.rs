//! An installation whose certificates live for seconds: it goes on by itself, and only as long as its host is what it
//! should be. Everything is real but the hardware; `cargo xtask test` builds the programs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Down, azote, code, json};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// How long certificates live here, in seconds.
const LIFE: u64 = 20;

#[track_caller]
fn done(state: &Path, words: &[&str]) -> Value {
    let output = azote(state, words);
    let document = json(&output);
    assert!(output.status.success(), "{words:?}: {document:#}");
    document
}

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Until when each certificate lives, by name.
fn ends(status: &Value) -> Vec<(String, u64)> {
    let holders = status["authority"]["holders"].as_array().unwrap().iter();
    holders
        .map(|holder| (holder["name"].as_str().unwrap().to_owned(), holder["ends"].as_u64().unwrap()))
        .collect()
}

#[track_caller]
fn wait(state: &Path, seconds: u64, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let status = done(state, &["status"]);
        if ready(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{what}: {:#} {:#}", status["authority"], status["inventory"]);
        sleep(Duration::from_millis(300));
    }
}

#[test]
fn certificates_renew_themselves_and_not_those_of_a_host_that_fails_its_appraisal() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    done(&state, &["up", "--certificate-life", &LIFE.to_string()]);
    let first = done(&state, &["status"]);
    assert_eq!(
        first["inventory"]["facts"]["attestation"], "passed",
        "the first round was in time: {first:#}"
    );
    assert_eq!(first["authority_runs"], true);
    let begin = ends(&first);
    assert_eq!(begin.len(), 4, "{begin:?}");
    let volume = done(&state, &["volume", "create", "--size", "4MiB"])["id"].as_str().unwrap().to_owned();

    // More than two lives later, all of them and the list are others, and the installation works.
    let later = begin.iter().map(|(_, ends)| *ends).max().unwrap() + LIFE + 1;
    let status = wait(&state, 2 * LIFE + 5, "two lives", |_| now() > later);
    for ((name, ends), (_, before)) in ends(&status).into_iter().zip(begin) {
        assert!(ends > now() && ends > before + LIFE, "{name}");
    }
    assert!(status["authority"]["list_ends"].as_u64() > first["authority"]["list_ends"].as_u64());
    done(&state, &["volume", "attach", &volume]);
    done(&state, &["volume", "detach", &volume]);

    // The policy wants what this host is not: it is offered nothing more and gets no work, and somebody hears of it.
    let policy = state.join("pki/attestation-policy.json");
    let mut other: Value = serde_json::from_slice(&fs::read(&policy).unwrap()).unwrap();
    other["configuration"] = 99.into();
    fs::write(&policy, other.to_string()).unwrap();
    let is_failed = |status: &Value| status["inventory"]["facts"]["attestation"] == "failed";
    let failed = wait(&state, LIFE / 2, "the appraisal", is_failed);
    assert_eq!(failed["inventory"]["found"]["code"], "attest.rollback");
    let work = ["token", "--api", "AttachVolume", "--resource", &format!("volume/{volume}")];
    assert_eq!(code(&azote(&state, &work)), "rights.forbidden");
    let once = azote(&state, &["authority", "run", "--once"]);
    assert_eq!(once.status.code(), Some(1));
    let last = host_ends(&failed);
    let alarms = || -> Vec<String> {
        let found = done(&state, &["alarms"]);
        found.as_array().unwrap().iter().map(|one| one["entry"].to_string()).collect()
    };
    for rule in ["attestation-failed", "certificate-ending"] {
        while !alarms().iter().any(|alarm| alarm.contains(rule)) {
            assert!(now() < last + LIFE, "{rule}: {:#?}", alarms());
            sleep(Duration::from_millis(500));
        }
    }
    while now() <= last {
        sleep(Duration::from_millis(500));
    }
    let status = azote(&state, &["status"]);
    assert_eq!(code(&status), "call.unreachable", "{:#}", json(&status));
}

fn host_ends(status: &Value) -> u64 {
    let host = ends(status).into_iter().find(|(name, _)| name.contains("host/"));
    host.unwrap().1
}
