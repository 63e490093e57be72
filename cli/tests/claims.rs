//! `azote claims` against a real installation, and against one in which something is wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Down, azote, code, json};
use serde_json::{Value, json as value};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

fn outcomes(report: &Value) -> Vec<&str> {
    assert_eq!(report["format"], "azote-claims/1", "{report:#}");
    let claims = report["claims"].as_array().unwrap();
    claims.iter().map(|claim| claim["outcome"].as_str().unwrap()).collect()
}

/// What was found by the evidence of a claim that has this outcome.
fn found(report: &Value, claim: usize, outcome: &str) -> String {
    let evidence = report["claims"][claim - 1]["evidence"].as_array().unwrap();
    let of = evidence.iter().filter(|it| it["outcome"] == outcome);
    of.map(|it| it["found"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_running_installation_breaks_no_claim_and_its_report_counts_only_unchanged() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    let page = scratch.path().join("claims.html");
    let page = page.to_str().unwrap();
    let output = azote(&state, &["claims", "--proofs", "/dev/null", "--html", page]);
    let report = json(&output);
    let outcomes = outcomes(&report);
    assert_eq!((output.status.code(), outcomes.len()), (Some(0), 7), "{report:#}");
    assert!(!outcomes.contains(&"broken"), "{report:#}");
    assert_eq!(
        (outcomes[3], outcomes[5], outcomes[6]),
        ("not-shown", "holds", "not-shown"),
        "no network of instances and no signed releases yet: {report:#}"
    );

    let text = fs::read_to_string(page).unwrap();
    assert!(text.contains("badge not-shown") && !text.contains("badge broken"));
    for outside in ["<script", "<link", "<img", "http://", "https://", "url("] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert!(azote(&state, &["down"]).status.success());
    assert_eq!(code(&azote(&state, &["claims"])), "host.not-up");
    let verify = || azote(&state, &["claims", "--verify", page]);
    let signed = verify();
    assert_eq!((signed.status.code(), &json(&signed)["by"]), (Some(0), &report["by"]));
    let mut bytes = text.into_bytes();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(page, bytes).unwrap();
    let changed = verify();
    assert_eq!((changed.status.code(), code(&changed)), (Some(1), "claims.signature".to_owned()));
    assert_eq!(azote(&state, &["claims", "--verify", page, "--html", page]).status.code(), Some(2));
}

#[test]
fn a_shell_a_failed_proof_and_a_door_that_answers_break_their_claims() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    let up = azote(&state, &["up"]);
    assert!(up.status.success(), "{:#}", json(&up));
    let lines = scratch.path().join("lines");
    let line = value!({
        "name": "nobody_touches_customer_content", "space": "all requests", "holds": false, "result": "alice reads",
    });
    fs::write(&lines, line.to_string()).unwrap();
    let claims = || azote(&state, &["claims", "--proofs", lines.to_str().unwrap()]);

    let mut shell = shell(&state);
    let output = claims();
    shell.kill().unwrap();
    shell.wait().unwrap();
    fs::remove_file(state.join("run/shell.pid")).unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((outcomes(&report)[0], outcomes(&report)[1]), ("broken", "broken"), "{report:#}");
    assert!(found(&report, 1, "broken").contains("sh"), "{report:#}");
    assert!(found(&report, 2, "broken").contains("alice reads"), "{report:#}");

    fs::write(state.join("run/kms.address"), door_that_answers()).unwrap();
    let output = claims();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_ne!(outcomes(&report)[0], "broken", "the shell is gone: {report:#}");
    assert!(found(&report, 4, "broken").contains("kms, TLS 1.2: an answer"), "{report:#}");
    assert_eq!(outcomes(&report)[2], "not-shown", "no key service, no evidence: {report:#}");
}

/// A shell among the processes that the installation's records name.
fn shell(state: &Path) -> Child {
    let shell = Command::new("sh").args(["-c", "read line"]).stdin(Stdio::piped()).spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", shell.id())).unwrap();
    // Behind the name come the state and, as the 22nd of all, the start in ticks.
    let started = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
    fs::write(state.join("run/shell.pid"), format!("{} boot {started}", shell.id())).unwrap();
    shell
}

/// Something that talks to whoever connects.
fn door_that_answers() -> String {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in door.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        }
    });
    address
}
