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
use tpm::{
    Credential, Error, Hierarchy, MAX_NV, NV_EK_CERTIFICATE, NV_FLOOR, NV_IDENTITY, PcrValues, Policy,
    QuoteError, Tpm, replay,
};

#[path = "../examples/tpm-check.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod check;

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
        let mut tpm = Tpm::connect(&self.socket()).unwrap();
        tpm.secure(None).unwrap();
        tpm
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
fn one_tpm_does_all_of_it() {
    let Some(swtpm) = Swtpm::start() else { return };
    let certificate = [5; MAX_NV];
    swtpm.tpm().manufacture(&certificate).unwrap();
    for (name, outcome) in check::all(&swtpm.socket()) {
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
    assert_eq!(
        swtpm.tpm().nv_read(NV_EK_CERTIFICATE).unwrap().unwrap(),
        certificate,
        "the maker's word stays"
    );
    assert!(swtpm.tpm().manufacture(b"another").is_err());
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
fn what_a_dead_client_left_loaded_is_flushed() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    let (ek, ak) = (tpm.endorsement_key().unwrap(), tpm.attestation_key().unwrap());
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
    // This takes a session and two objects.
    let credential = tpm::make_credential(&ek, &ak, b"secret").unwrap();
    assert_eq!(**swtpm.tpm().activate_credential(&credential).unwrap(), *b"secret");
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
fn a_secret_opens_in_an_approved_state_only_also_after_a_power_cycle() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    let log = [tpm.measure(8, [1; 32], "stage").unwrap(), tpm.measure(9, [2; 32], "policies").unwrap()];
    let key = tpm.create_signing_key(b"auth").unwrap();
    let approval = tpm.approve(&key, b"auth", b"test", &replay(&log).unwrap(), None).unwrap();
    let policy = Policy::Authorized { key: &key.public, reference: b"test" };
    let blob = tpm.seal(b"secret", policy).unwrap();
    let open = |tpm: &mut Tpm| tpm.unseal_approved(&blob, &key.public, b"test", &approval);
    for _ in 0..5 {
        assert_eq!(**open(&mut tpm).unwrap(), *b"secret");
    }
    tpm.pcr_extend(9, &[3; 32]).unwrap();
    for _ in 0..5 {
        // Sessions of refused attempts are flushed as well.
        assert!(matches!(open(&mut tpm), Err(Error::Policy)));
    }
    drop(tpm);
    swtpm.restart();
    let mut tpm = swtpm.tpm();
    assert!(matches!(open(&mut tpm), Err(Error::Policy)));
    tpm.pcr_extend(8, &[1; 32]).unwrap();
    tpm.pcr_extend(9, &[2; 32]).unwrap();
    assert_eq!(**open(&mut tpm).unwrap(), *b"secret");
    assert!(matches!(tpm.approve(&key, b"auth", b"test", &PcrValues::new(), None), Err(Error::NoPcr)));
}

#[test]
fn a_quote_holds_for_its_nonce_its_key_and_its_values_only() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.tpm();
    tpm.pcr_extend(8, &[1; 32]).unwrap();
    let (key, nonce) = (tpm.attestation_key().unwrap(), [7; 32]);
    let quote = tpm.quote(&nonce, &[8, 9]).unwrap();
    let expected = tpm.pcr_read(&[8, 9]).unwrap();
    let clock = quote.verify(&key, &nonce, &expected).unwrap();

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
    let mut tpm = swtpm.tpm();
    assert_eq!(tpm.attestation_key().unwrap(), key);
    let later = tpm.quote(&nonce, &[8]).unwrap().verify(&key, &nonce, &tpm.pcr_read(&[8]).unwrap()).unwrap();
    assert_eq!(later.resets, clock.resets + 1, "a power cycle counts");
}

/// Carries a program's commands to a TPM's socket: tools of this age know none.
const BRIDGE: &str = "import os,socket,sys,threading
s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1])
def up():
  while (b:=os.read(0,4096)): s.sendall(b)
  s.shutdown(1)
threading.Thread(target=up,daemon=True).start()
while (b:=s.recv(4096)): os.write(1,b)
";

impl Swtpm {
    /// Runs one of tpm2-tools in the state's folder with this TPM; what it says, none if it fails.
    fn tool(&self, tool: &str, arguments: &[&str]) -> Option<String> {
        let bridge = self.state.path().join("bridge.py");
        std::fs::write(&bridge, BRIDGE).unwrap();
        let tcti = format!("cmd:python3 {} {}", bridge.display(), self.socket().display());
        let mut command = Command::new(tool);
        command.args(arguments).env("TPM2TOOLS_TCTI", tcti).current_dir(self.state.path());
        let output = command.output().unwrap();
        println!("{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.state.path().join(name)).unwrap()
    }
}

fn no_tools() -> bool {
    let missing = Command::new("tpm2_checkquote").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        println!("skipped: tpm2-tools not found");
    }
    missing
}

#[test]
fn other_tools_read_our_memory_and_our_pcrs() {
    let Some(swtpm) = Swtpm::start() else { return };
    if no_tools() {
        return;
    }
    let mut tpm = swtpm.tpm();
    tpm.set_auth(Hierarchy::Owner, &[], b"owner").unwrap();
    tpm.nv_write_once(b"owner", NV_IDENTITY, b"identity").unwrap();
    let floor = tpm.nv_define_counter(b"owner", NV_FLOOR).unwrap();
    tpm.pcr_extend(11, &[3; 32]).unwrap();
    let pcr: String = tpm.pcr_read(&[11]).unwrap()[&11].iter().map(|byte| format!("{byte:02X}")).collect();
    drop(tpm);
    assert!(swtpm.tool("tpm2_pcrread", &["sha256:11"]).unwrap().contains(&pcr));
    let identity = format!("{NV_IDENTITY:#x}");
    assert_eq!(swtpm.tool("tpm2_nvread", &[&identity]).unwrap(), "identity");
    let public = swtpm.tool("tpm2_nvreadpublic", &[&identity]).unwrap();
    assert!(
        ["writelocked", "writedefine", "ownerwrite"].iter().all(|word| public.contains(word)),
        "{public}"
    );
    std::fs::write(swtpm.state.path().join("new"), b"another!").unwrap();
    assert_eq!(swtpm.tool("tpm2_nvwrite", &[&identity, "-C", "o", "-P", "owner", "-i", "new"]), None);
    assert_eq!(swtpm.tool("tpm2_nvundefine", &[&identity, "-C", "o"]), None);
    swtpm.tool("tpm2_nvread", &[&format!("{NV_FLOOR:#x}"), "-o", "floor"]).unwrap();
    assert_eq!(swtpm.file("floor"), floor.to_be_bytes());
}

#[test]
fn other_tools_make_the_same_endorsement_key_and_credentials_that_we_open() {
    let Some(swtpm) = Swtpm::start() else { return };
    if no_tools() {
        return;
    }
    let mut tpm = swtpm.tpm();
    let (ek, ak) = (tpm.endorsement_key().unwrap(), tpm.attestation_key().unwrap());
    drop(tpm);
    swtpm.tool("tpm2_createek", &["-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub"]).unwrap();
    assert_eq!(swtpm.file("ek.pub"), ek);
    let name: String = tpm::name(&ak).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(swtpm.state.path().join("secret"), b"of another's making").unwrap();
    let make = ["-T", "none", "-e", "ek.pub", "-s", "secret", "-n", &name, "-o", "credential"];
    swtpm.tool("tpm2_makecredential", &make).unwrap();
    // The tool's file: magic and version, then the two structures.
    let file = swtpm.file("credential");
    let length = 2 + usize::from(u16::from_be_bytes([file[8], file[9]]));
    let (object, secret) = file[8..].split_at(length);
    let credential = Credential { object: object.to_vec(), secret: secret.to_vec() };
    assert_eq!(**swtpm.tpm().activate_credential(&credential).unwrap(), *b"of another's making");
}

#[test]
fn other_tools_accept_our_quotes_and_refuse_another_nonce() {
    let Some(swtpm) = Swtpm::start() else { return };
    if no_tools() {
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
