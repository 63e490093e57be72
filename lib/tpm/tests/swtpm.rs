//! Against a real software TPM.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use aws_lc_rs::digest::{SHA256, digest};
use parts::{Parts, Tool};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tpm::{Error, PcrValues, Policy, QuoteError, Tpm, replay};

/// A software TPM that stops with its test. It stays when a client goes, and serves the next.
struct Swtpm {
    process: Child,
    state: TempDir,
}

impl Swtpm {
    fn start() -> Option<Self> {
        let Some(program) = swtpm() else {
            println!("skipped: swtpm not found");
            return None;
        };
        let state = tempfile::tempdir().unwrap();
        let process = spawn(program, state.path());
        Some(Self { process, state })
    }

    /// Power off and on: PCRs start from zero, seeds stay.
    fn restart(&mut self) {
        self.stop();
        self.process = spawn(swtpm().unwrap(), self.state.path());
    }

    fn tpm(&self) -> Tpm {
        Tpm::connect(&self.socket()).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.state.path().join("tpm.sock")
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_file(self.socket()).unwrap_or_default();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The lab's software TPM if it has been fetched, else the machine's.
fn swtpm() -> Option<Command> {
    if let Ok(parts) = Parts::locate(&parts::default_dir()) {
        return Some(parts.command(Tool::Swtpm));
    }
    let found = Command::new("swtpm").arg("--version").stdout(Stdio::null()).status();
    found.is_ok().then(|| Command::new("swtpm"))
}

fn spawn(mut swtpm: Command, state: &Path) -> Child {
    let socket = state.join("tpm.sock");
    let process = swtpm
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={},mode=0600", socket.display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}

#[test]
fn the_log_replays_to_what_the_tpm_holds() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    assert_eq!(tpm.pcr_read(&[0, 15]).unwrap(), PcrValues::from([(0, [0; 32]), (15, [0; 32])]));
    let log = [
        tpm.measure(8, [1; 32], "first").unwrap(),
        tpm.measure(9, [2; 32], "second").unwrap(),
        tpm.measure(8, [3; 32], "third").unwrap(),
    ];
    assert_eq!(log[2].description, "third");
    assert_eq!(tpm.pcr_read(&[8, 9]).unwrap(), replay(&log).unwrap());
    assert!(matches!(tpm.pcr_extend(16, &[0; 32]), Err(Error::PcrIndex(16))));
}

#[test]
fn processes_take_turns_and_random_bytes_differ() {
    let Some(swtpm) = Swtpm::start() else { return };
    let first = swtpm.tpm().random(100).unwrap();
    let second = swtpm.tpm().random(100).unwrap();
    assert_eq!((first.len(), second.len()), (100, 100));
    assert_ne!(first, second);
}

#[test]
fn what_a_dead_client_left_loaded_is_flushed() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    let values = tpm.pcr_read(&[8]).unwrap();
    let blob = tpm.seal(b"secret", Policy::Pcrs(&values)).unwrap();
    drop(tpm);
    let mut dead = UnixStream::connect(swtpm.socket()).unwrap();
    // TPM2_StartAuthSession: no key, no bind, 16 bytes of nonce, no salt, policy, no cipher, SHA-256.
    let start =
        b"\x80\x01\0\0\0\x2b\0\0\x01\x76\x40\0\0\x07\x40\0\0\x07\0\x10nonce of 16 byte\0\0\x01\0\x10\0\x0b";
    let mut codes = Vec::new();
    for _ in 0..4 {
        dead.write_all(start).unwrap();
        let mut response = [0; 128];
        assert!(dead.read(&mut response).unwrap() >= 10);
        codes.push(response[8..10].to_vec());
    }
    assert_eq!((&codes[0][..], &codes[3][..]), (&[0, 0][..], &[9, 3][..]), "until the TPM has no more room");
    drop(dead);
    assert_eq!(**swtpm.tpm().unseal(&blob).unwrap(), *b"secret");
}

#[test]
fn a_secret_opens_only_in_its_tpm() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let secret: Vec<u8> = (0..1000u16).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let blob = swtpm.tpm().seal(&secret, Policy::None).unwrap();
    assert!(!blob.windows(16).any(|window| window == &secret[..16]));
    swtpm.restart();
    let mut tpm = swtpm.tpm();
    for _ in 0..4 {
        // More often than the TPM has room for objects: contexts are flushed.
        assert_eq!(*tpm.unseal(&blob).unwrap(), secret);
    }
    assert!(matches!(tpm.seal(&vec![0; tpm::MAX_SECRET + 1], Policy::None), Err(Error::Length)));
    let other = Swtpm::start().unwrap();
    assert!(matches!(other.tpm().unseal(&blob), Err(Error::Integrity)));
    let empty = tpm.seal(b"", Policy::None).unwrap();
    assert!(tpm.unseal(&empty).unwrap().is_empty());
}

/// Where the checksummed part of a blob begins.
const BODY: usize = 62;

#[test]
fn no_changed_byte_of_a_blob_opens() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    let blob = tpm.seal(b"secret", Policy::None).unwrap();
    for at in (0..blob.len()).filter(|at| !(10..26).contains(at)) {
        let mut changed = blob.clone();
        changed[at] ^= 1;
        assert!(matches!(tpm.unseal(&changed), Err(Error::Blob)), "byte {at}");
        assert!(matches!(tpm.unseal(&blob[..at]), Err(Error::Blob)), "length {at}");
        // An attacker knows the checksum too.
        if at >= BODY {
            let checksum = digest(&SHA256, &changed[BODY..]);
            changed[BODY - 32..BODY].copy_from_slice(checksum.as_ref());
            assert!(tpm.unseal(&changed).is_err(), "byte {at}");
        }
    }
    assert_eq!(**tpm.unseal(&blob).unwrap(), *b"secret");
}

#[test]
fn a_secret_sealed_to_pcrs_opens_only_while_they_have_those_values() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    let log = [tpm.measure(8, [1; 32], "stage").unwrap(), tpm.measure(9, [2; 32], "policies").unwrap()];
    let blob = tpm.seal(b"secret", Policy::Pcrs(&replay(&log).unwrap())).unwrap();
    for _ in 0..5 {
        assert_eq!(**tpm.unseal(&blob).unwrap(), *b"secret");
    }
    tpm.pcr_extend(9, &[3; 32]).unwrap();
    for _ in 0..5 {
        // Sessions of refused attempts are flushed as well.
        assert!(matches!(tpm.unseal(&blob), Err(Error::Policy)));
    }
    drop(tpm);
    swtpm.restart();
    let mut tpm = swtpm.tpm();
    assert!(matches!(tpm.unseal(&blob), Err(Error::Policy)));
    tpm.pcr_extend(8, &[1; 32]).unwrap();
    tpm.pcr_extend(9, &[2; 32]).unwrap();
    assert_eq!(**tpm.unseal(&blob).unwrap(), *b"secret");
    assert!(matches!(tpm.seal(b"", Policy::Pcrs(&PcrValues::new())), Err(Error::NoPcr)));
}

#[test]
fn a_quote_holds_for_its_nonce_its_key_and_its_values_only() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    tpm.pcr_extend(8, &[1; 32]).unwrap();
    let (key, nonce) = (tpm.attestation_key().unwrap(), [7; 32]);
    let quote = tpm.quote(&nonce, &[8, 9]).unwrap();
    let expected = tpm.pcr_read(&[8, 9]).unwrap();
    assert!(quote.verify(&key, &nonce, &expected).is_ok());

    assert_eq!(quote.verify(&key, &[8; 32], &expected), Err(QuoteError::Nonce));
    assert_eq!(quote.verify(&key, &nonce, &PcrValues::new()), Err(QuoteError::Pcrs));
    assert_eq!(quote.verify(&key, &nonce, &tpm.pcr_read(&[8]).unwrap()), Err(QuoteError::Pcrs));
    tpm.pcr_extend(9, &[1; 32]).unwrap();
    assert_eq!(quote.verify(&key, &nonce, &tpm.pcr_read(&[8, 9]).unwrap()), Err(QuoteError::Pcrs));
    for at in 0..quote.attest.len() {
        let mut changed = quote.clone();
        changed.attest[at] ^= 1;
        assert_eq!(changed.verify(&key, &nonce, &expected), Err(QuoteError::Signature), "byte {at}");
    }
    let other = Swtpm::start().unwrap().tpm().attestation_key().unwrap();
    assert_eq!(quote.verify(&other, &nonce, &expected), Err(QuoteError::Signature));
    assert!(matches!(tpm.quote(b"short", &[8]), Err(Error::Length)));

    drop(tpm);
    swtpm.restart();
    assert_eq!(swtpm.tpm().attestation_key().unwrap(), key);
}

#[test]
fn other_tools_accept_our_quotes_and_refuse_another_nonce() {
    let Some(swtpm) = Swtpm::start() else { return };
    if Command::new("tpm2_checkquote").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: tpm2-tools not found");
        return;
    }
    let folder = swtpm.state.path();
    let nonce = [0x5a; 20];
    let mut tpm = swtpm.tpm();
    let quote = tpm.quote(&nonce, &[10]).unwrap();
    std::fs::write(folder.join("ak.pub"), tpm.attestation_key().unwrap()).unwrap();
    std::fs::write(folder.join("q.msg"), &quote.attest).unwrap();
    std::fs::write(folder.join("q.sig"), &quote.signature).unwrap();
    drop(tpm);
    let check = |nonce: &str| {
        let arguments = ["-u", "ak.pub", "-m", "q.msg", "-s", "q.sig", "-g", "sha256", "-q", nonce];
        Command::new("tpm2_checkquote").args(arguments).current_dir(folder).output().unwrap().status.success()
    };
    assert!(check(&"5a".repeat(20)));
    assert!(!check(&"5b".repeat(20)));
}
