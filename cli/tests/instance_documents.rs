//! An instance's document, judged by the command without an installation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use ::attest::lab::Lab;
use boot_rom::events;
use common::{azote, code, json};
use ids::{HostId, InstanceId};
use nsm::{CardKey, Chain, HostKey, Issuer, Module, Request, Response};
use serde_json::json;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    rc::Rc,
    time::{Duration, SystemTime},
};

const NONCE: [u8; 32] = [9; 32];

fn cbor(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// The document of an instance on the lab's host, in a state folder with the root of such documents.
fn document(state: &Path, lab: &Lab, instance: &InstanceId) -> Vec<u8> {
    let now = Duration::from_secs(lab.now);
    let authority = pki::Attestation::open_or_create(&state.join("pki")).unwrap();
    let key = HostKey::derive(&[5; 32]).unwrap();
    let lifetime = Duration::from_secs(86_400);
    let chain = authority.issue(&key.request().unwrap(), &lab.host, lifetime).unwrap();
    let card = Rc::new(CardKey::generate().unwrap());
    let chain = key.certify(&Chain::from_pem(&chain).unwrap(), instance, card.public(), now).unwrap();
    let issuer = Issuer::new(card, chain).unwrap();
    let manifest = lab.policy().launch().unwrap().releases[0].manifest.0;
    let entry = |event: &::attest::Event| {
        events::Event::new(event.pcr, &event.what, &event.sha256.0).unwrap().bytes().to_vec()
    };
    let log: Vec<u8> = lab.events().iter().flat_map(entry).collect();
    let registers = [nsm::of_instance(instance), nsm::of_host(Some(&manifest), &log)].concat();
    let mut module = Module::new(instance, &registers, now, 1).unwrap();
    let nonce = Some(b"fresh".to_vec().into());
    let request = cbor(&Request::Attestation { user_data: None, nonce, public_key: None });
    let answer = module.handle(&request, nsm::MAX_RESPONSE, Some(&issuer), now);
    let Response::Attestation { document } = ciborium::from_reader(answer.as_slice()).unwrap() else {
        panic!()
    };
    document.into_vec()
}

/// A host, an instance's document, and files for the command.
struct Scene {
    scratch: tempfile::TempDir,
    lab: Lab,
    instance: InstanceId,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("state/pki")).unwrap();
        let mut lab = Lab::default();
        lab.now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let scene = Self { scratch, lab, instance: InstanceId::from_random(1) };
        fs::write(scene.file("document"), document(&scene.state(), &scene.lab, &scene.instance)).unwrap();
        scene.host_is(&scene.lab);
        scene
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn file(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    /// Policy and evidence of a host.
    fn host_is(&self, lab: &Lab) {
        let (nonce, evidence) = (host_api::Nonce::from_bytes(&NONCE), lab.evidence(&NONCE));
        let kept =
            json!({"format": "azote-evidence/1", "nonce": nonce, "taken": lab.now, "evidence": evidence});
        fs::write(self.file("evidence"), kept.to_string()).unwrap();
        fs::write(self.file("policy"), lab.policy().to_json()).unwrap();
    }

    fn verify(&self, words: &[&str]) -> Output {
        azote(&self.state(), &[&["instance", "verify", &self.file("document")], words].concat())
    }

    fn refused(&self, words: &[&str], wanted: &str) {
        let output = self.verify(words);
        assert_eq!((code(&output).as_str(), output.status.code()), (wanted, Some(1)), "{words:?}");
    }
}

#[test]
fn an_instances_document_is_judged_by_the_command_alone() {
    let scene = Scene::new();
    let (lab, fresh, id) = (&scene.lab, "6672657368", scene.instance.to_string());
    for words in [&[][..], &["--nonce", fresh, "--instance", &id, "--host", lab.host.as_str()]] {
        let good = scene.verify(words);
        let said = json(&good);
        assert!(good.status.success(), "{said:#}");
        assert_eq!((&said["instance"], &said["host"]), (&json!(scene.instance), &json!(lab.host)));
        assert_eq!((&said["nonce"], said["registers"].as_object().unwrap().len()), (&json!(fresh), 16));
        assert_eq!(said["release"], json!(null));
    }
    let four = json(&scene.verify(&[]))["registers"]["4"].as_str().unwrap().to_owned();
    let (four, zero) = (format!("4={four}"), "00".repeat(48));
    assert!(scene.verify(&["--pcr", &four]).status.success());
    scene.refused(&["--pcr", &format!("4={zero}")], "document.register");
    scene.refused(&["--pcr", &four, "--pcr", &format!("4={zero}")], "document.register");
    scene.refused(&["--pcr", &format!("16={zero}")], "document.register-missing");
    scene.refused(&["--nonce", "00"], "document.nonce");
    scene.refused(&["--instance", InstanceId::from_random(2).as_str()], "document.instance");
    scene.refused(&["--host", HostId::from_random(2).as_str()], "document.host");
    scene.refused(&["--at", &(lab.now + 4 * 3600).to_string()], "document.time");
    scene.refused(&["--root", &scene.file("document")], "io.failed");
    let other = scene.file("other");
    fs::write(&other, &lab.authority).unwrap();
    scene.refused(&["--root", &other], "document.chain");
    fs::write(&other, [lab.authority.as_str(), &lab.authority].concat()).unwrap();
    scene.refused(&["--root", &other], "document.root");
    for wrong in [&["--pcr", "4"][..], &["--nonce", "0"], &["--evidence", &other], &["--at", "x"]] {
        assert_eq!(scene.verify(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn an_instances_document_is_judged_with_its_host() {
    let mut scene = Scene::new();
    let (policy, evidence) = (scene.file("policy"), scene.file("evidence"));
    let (alone, whole) = (["--policy", &policy], ["--policy", &policy, "--evidence", &evidence]);
    for words in [&alone[..], &whole] {
        let good = scene.verify(words);
        assert!(good.status.success(), "{:#}", json(&good));
        assert_eq!(json(&good)["release"], "1.2.0");
    }
    scene.refused(&["--policy", &scene.file("none")], "attest.policy-empty");
    let kept = fs::read(&evidence).unwrap();
    scene.lab.manifest.version = "1.3.0".to_owned();
    scene.host_is(&scene.lab);
    scene.refused(&alone, "document.register");
    scene.refused(&whole, "document.register");
    fs::write(&evidence, kept).unwrap();
    scene.refused(&whole, "attest.rollback");
    scene.lab.host = HostId::from_random(2);
    scene.host_is(&scene.lab);
    scene.refused(&whole, "document.host");
}

#[test]
fn a_document_comes_by_standard_input_and_none_that_is_altered_passes() {
    let scene = Scene::new();
    let document = fs::read(scene.file("document")).unwrap();
    let judged = |document: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_azote"));
        command.args(["--json", "--state"]).arg(scene.state()).args(["instance", "verify", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It reads no more than the longest document.
        let _ = child.stdin.take().unwrap().write_all(document);
        let output = child.wait_with_output().unwrap();
        if output.status.success() { "good".to_owned() } else { code(&output) }
    };
    assert_eq!(judged(&document), "good");
    assert_eq!(judged(&[]), "document.malformed");
    assert_eq!(judged(&vec![0; 100_000]), "document.malformed");
    let step = document.len() / 40;
    for at in (0..document.len()).step_by(step) {
        let mut altered = document.clone();
        altered[at] ^= 0x40;
        assert!(judged(&altered).starts_with("document."), "byte {at}");
    }
}
