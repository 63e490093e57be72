//! A machine's life: it becomes a host, gets new papers while it runs, is reset and proves it, becomes another host, of
//! another environment, and is retired. Everything is real but the hardware; `cargo xtask test` builds the programs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Down, azote, code, json};
use serde_json::{Value, json as value};
use std::{fs, path::Path, process::Command};

/// What a machine consists of when nobody is looking, and what its makers know.
const MACHINE: [&str; 5] = ["tpm-host", "flash", "fuse", "pki/release", "pki/manufacturer"];

#[track_caller]
fn done(state: &Path, words: &[&str]) -> Value {
    let output = azote(state, words);
    let document = json(&output);
    assert!(output.status.success(), "{words:?}: {document:#}");
    document
}

#[track_caller]
fn refused(state: &Path, words: &[&str], wanted: &str) {
    let output = azote(state, words);
    assert_eq!(code(&output), wanted, "{words:?}: {:#}", json(&output));
}

fn certificate(state: &Path) -> String {
    done(state, &["status"])["certificate"].as_str().unwrap().to_owned()
}

fn process(state: &Path) -> String {
    fs::read_to_string(state.join("run/controller.pid")).unwrap()
}

/// Carries a machine from one installation, which does not run, to a new one.
fn carry(from: &Path, to: &Path, environment: &str) {
    let mut installation: Value =
        serde_json::from_slice(&fs::read(from.join("installation.json")).unwrap()).unwrap();
    installation["environment"] = value!(environment);
    fs::create_dir_all(to.join("pki")).unwrap();
    fs::write(to.join("installation.json"), installation.to_string()).unwrap();
    for part in MACHINE {
        let copied = Command::new("cp").arg("-a").arg(from.join(part)).arg(to.join(part)).status().unwrap();
        assert!(copied.success(), "{part}");
    }
}

#[test]
fn a_machine_becomes_a_host_and_ceases_to_be_one() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("first");
    let _down = Down(&state);
    done(&state, &["up"]);
    let (name, first, running) =
        (done(&state, &["status"])["host"].clone(), certificate(&state), process(&state));

    // Papers for another day, without a restart; they outlive one.
    done(&state, &["host", "renew"]);
    let second = certificate(&state);
    assert!(second != first && process(&state) == running);
    refused(&state, &["host", "enroll"], "host.enrolled");

    // A host that is in use stays. One that was reset proves it, and is no more.
    let reset = ["host", "reset", "--ticket", "OPS-1"];
    refused(&state, &reset, "host.in-use");
    done(&state, &["host", "drain"]);
    let policy = state.join("pki/attestation-policy.json");
    let told = done(&state, &reset);
    assert_eq!((&told["host"], &told["statement"]["requested_by"]), (&name, &value!("azote:operator/alice")));
    let kept = told["certificate"].as_str().unwrap();
    let judge = ["host", "erasure", kept, "--policy", policy.to_str().unwrap()];
    let statement = done(&state, &judge);
    assert!(statement["media"].as_array().unwrap().iter().all(|medium| medium["method"] == "purge"));
    let text = fs::read_to_string(kept).unwrap();
    let other = text.replacen("\"statement\": \"0o", "\"statement\": \"0p", 1);
    assert_ne!(other, text);
    fs::write(kept, other).unwrap();
    assert!(!azote(&state, &judge).status.success(), "an altered certificate proves nothing");

    // The same machine is another host then; the one before is nobody.
    let enrolled = done(&state, &["host", "enroll"]);
    assert_ne!(enrolled["host"], name);
    assert_eq!(done(&state, &["status"])["host"], enrolled["host"]);

    // Who is retired is not talked to, now and after the next start.
    done(&state, &["host", "retire"]);
    assert!(json(&azote(&state, &["status"]))["error"]["message"].as_str().unwrap().contains("Revoked"));
    done(&state, &["down"]);
    refused(&state, &["up"], "host.unknown");
    // Only somebody at the machine makes something of it again.
    let cleared = done(&state, &["host", "enroll", "--jumper"]);
    assert_ne!(cleared["host"], enrolled["host"]);
}

#[test]
fn nothing_crosses_from_one_environment_to_the_other_but_through_a_reset() {
    let scratch = tempfile::tempdir().unwrap();
    let [first, stolen, production, back] =
        ["first", "stolen", "production", "back"].map(|name| scratch.path().join(name));
    let all = [&first, &stolen, &production, &back].map(|state| Down(state));
    done(&first, &["up"]);
    done(&first, &["down"]);
    // A machine of the one environment does not start releases of the other.
    carry(&first, &stolen, "production");
    refused(&stolen, &["up"], "rom.environment");

    done(&first, &["up"]);
    done(&first, &["host", "drain"]);
    done(&first, &["host", "reset", "--ticket", "OPS-2"]);
    carry(&first, &production, "production");
    assert_eq!(done(&production, &["host", "enroll"])["environment"], "production");
    let release = done(&production, &["status"])["release"].clone();
    assert_eq!(release["environment"], "production", "{release}");
    done(&production, &["down"]);
    // And not back.
    carry(&production, &back, "non-production");
    refused(&back, &["up"], "rom.environment");
    drop(all);
}
