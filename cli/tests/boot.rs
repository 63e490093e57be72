//! Releases, and hosts that do not start.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use boot_rom::program::names_another;
use common::{Down, azote, code, json};
use std::{fs, os::unix::fs::symlink, path::Path};

fn lab_is_here() -> bool {
    let here = parts::Parts::locate(&parts::default_dir()).is_ok();
    if !here {
        println!("skipped: the lab's parts are not there");
    }
    here
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_host_that_does_not_start_says_which_stage_refused_what() {
    if !lab_is_here() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("s");
    let _down = Down(&state);
    json(&azote(&state, &["up"]));
    json(&azote(&state, &["down"]));
    for (file, at, refusal) in [("stage-1", 5000, "rom.hash"), ("controller", 5000, "stage-1.controller")] {
        let path = state.join("host/boot").join(file);
        flip(&path, at);
        let up = azote(&state, &["up"]);
        assert_eq!((code(&up).as_str(), up.status.code()), (refusal, Some(1)));
        for ask in [&["host", "status"][..], &["status"]] {
            assert_eq!(code(&azote(&state, ask)), refusal, "nothing runs, and the report says why");
        }
        flip(&path, at);
    }
    json(&azote(&state, &["up"]));
    assert_eq!(json(&azote(&state, &["host", "status"]))["in_service"], true);
}

#[test]
fn the_programs_of_this_tree_are_whole_and_a_release_takes_no_others() {
    if !lab_is_here() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir(at("programs")).unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_azote")).parent().unwrap();
    for entry in fs::read_dir(built).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("azote") && !name.contains('.') {
            let program = fs::read(entry.path()).unwrap();
            assert!(program.starts_with(b"\x7fELF") && !names_another(&program), "{name}");
            symlink(entry.path(), at("programs").join(name)).unwrap();
        }
    }
    let texts = ["key", "programs", "out"].map(|name| at(name).display().to_string());
    let [key, programs, out] = texts.each_ref().map(String::as_str);
    let make = ["release", "make", "--root-key", key, "--programs", programs, "--out", out];
    let card = at("programs/azote-volume-card");
    fs::remove_file(&card).unwrap();
    symlink("/bin/sh", &card).unwrap();
    assert_eq!(code(&azote(scratch.path(), &make)), "release.program");
    assert!(!at("out").exists());
    fs::remove_file(&card).unwrap();
    symlink(built.join("azote-volume-card"), &card).unwrap();
    assert!(azote(scratch.path(), &make).status.success());
}

#[test]
fn a_host_whose_security_key_is_taken_out_has_no_store() {
    if !lab_is_here() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (state, key) = (scratch.path().join("s"), scratch.path().join("key"));
    let _down = Down(&state);
    let start = |words: &[&str]| {
        json(&azote(&state, words));
        let status = json(&azote(&state, &["host", "status"]));
        json(&azote(&state, &["down"]));
        status["out_of_service"]["code"].as_str().map(str::to_owned)
    };
    let plugged = ["up", "--security-key", key.to_str().unwrap()];
    assert_eq!(start(&plugged), None);
    assert_eq!(start(&["up"]).as_deref(), Some("store.security-key"));
    flip(&key, 3);
    assert_eq!(start(&plugged).as_deref(), Some("store.security-key"), "another key is none");
    flip(&key, 3);
    assert_eq!(start(&plugged), None);
}

#[test]
fn releases_are_made_shown_and_verified() {
    if !lab_is_here() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let (key, out) = (at("key"), at("release"));
    let make =
        ["release", "make", "--root-key", &key, "--out", &out, "--svn", "7", "--environment", "production"];
    let made = json(&azote(scratch.path(), &make));
    assert_eq!((made["svn"].as_u64(), made["environment"].as_str()), (Some(7), Some("production")));
    let verify = ["release", "verify", &out, "--root-key", &key];
    assert_eq!(json(&azote(scratch.path(), &verify)), made);
    assert_eq!(code(&azote(scratch.path(), &make)), "release.file", "a release is never written over");
    flip(&scratch.path().join("release/hypervisor"), 900);
    assert_eq!(code(&azote(scratch.path(), &verify)), "release.image");
    let show = ["release", "show", &out, "--root-key", &key];
    assert_eq!(json(&azote(scratch.path(), &show)), made, "the manifest is as it was signed");
    flip(&scratch.path().join("release/manifest"), 90);
    assert_eq!(code(&azote(scratch.path(), &show)), "release.signature");
}
