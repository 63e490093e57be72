//! Others' code on the same TPM: Debian's tpm2-tools read what this crate wrote, and check what it quotes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use parts::{Parts, Tool};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tpm::{NV_FLOOR, NV_IDENTITY, Quote, Tpm};

const PCRS: [u8; 5] = [8, 9, 10, 11, 12];
const LIST: &str = "sha256:8,9,10,11,12";
const NONCE: [u8; 32] = [0x5a; 32];

/// A software TPM behind a TCP port, with its control channel at the next: as the TCG's stack wants it.
struct Swtpm {
    process: Child,
    port: u16,
    state: TempDir,
}

impl Swtpm {
    fn start(parts: &Parts) -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = ports();
        let mut command = parts.command(Tool::Swtpm);
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", state.path().display()));
        command.args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")]);
        command.args(["--ctrl", &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1)]);
        let process = command.stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port + 1)).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, port, state }
    }

    fn tpm(&self) -> Tpm {
        let mut tpm = Tpm::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap());
        tpm.secure(None).unwrap();
        tpm
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.state.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Two free ports that follow each other.
fn ports() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port));
    (0..100)
        .find_map(|_| {
            let port = free(0).ok()?.local_addr().ok()?.port();
            free(port.checked_add(1)?).ok()?;
            Some(port)
        })
        .unwrap()
}

/// The tools, each with this TPM.
struct Tools<'a> {
    parts: &'a Parts,
    tcti: String,
    folder: &'a Path,
}

impl Tools<'_> {
    fn run(&self, words: &[&str]) -> Output {
        let mut command: Command = self.parts.tpm2_tools().unwrap();
        command.args(words).current_dir(self.folder).env("TPM2TOOLS_TCTI", &self.tcti);
        command.env("TSS2_LOG", "all+NONE").output().unwrap()
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn tpm2_tools_read_registers_and_nv_and_check_quotes_and_refuse_altered_ones() {
    let Ok(parts) = Parts::locate(&parts::default_dir()) else {
        println!("skipped: no lab parts");
        return;
    };
    let swtpm = Swtpm::start(&parts);
    let mut tpm = swtpm.tpm();
    for pcr in PCRS {
        tpm.pcr_extend(pcr, &[pcr; 32]).unwrap();
    }
    tpm.nv_write_once(b"", NV_IDENTITY, b"who this host is").unwrap();
    tpm.nv_define_counter(b"", NV_FLOOR).unwrap();
    tpm.nv_increment(b"", NV_FLOOR).unwrap();
    let (values, floor) = (tpm.pcr_read(&PCRS).unwrap(), tpm.nv_counter(NV_FLOOR).unwrap().unwrap());
    let (key, quote) = (tpm.attestation_key().unwrap(), tpm.quote(&NONCE, &PCRS).unwrap());
    drop(tpm);

    let tools = Tools {
        parts: &parts,
        tcti: format!("swtpm:host=127.0.0.1,port={}", swtpm.port),
        folder: swtpm.state.path(),
    };
    let read = tools.good(&["pcrread", LIST, "-o", "pcrs", "-F", "values"]);
    let told = String::from_utf8_lossy(&read.stdout).to_lowercase();
    for (pcr, value) in &values {
        let number = |line: &&str| line.split(':').next().is_some_and(|n| n.trim() == pcr.to_string());
        let line = told.lines().find(number);
        assert!(line.unwrap().contains(&hex(value)), "{told}");
    }
    let index = |index: u32| format!("{index:#x}");
    let identity = tools.good(&["nvread", "-C", &index(NV_IDENTITY), &index(NV_IDENTITY)]);
    assert_eq!(identity.stdout, b"who this host is");
    let counter = tools.good(&["nvread", "-C", &index(NV_FLOOR), &index(NV_FLOOR)]);
    assert_eq!(counter.stdout, floor.to_be_bytes());
    // Their own write is refused: the record is locked for good, also for the owner.
    let forged = swtpm.file("forged", b"who it would be!");
    let record = index(NV_IDENTITY);
    for owner in ["o", &record] {
        let write = ["nvwrite", "-C", owner, "-i", &forged, &record];
        assert!(!tools.run(&write).status.success(), "{write:?}");
    }
    quotes(&swtpm, &tools, &key, &quote);
}

/// With the register values that they read themselves.
fn quotes(swtpm: &Swtpm, tools: &Tools<'_>, key: &[u8], quote: &Quote) {
    let pcrs = fs::read(swtpm.state.path().join("pcrs")).unwrap();
    let key = swtpm.file("key", key);
    let check = |quote: &Quote, nonce: &[u8], pcrs: &[u8]| {
        let (attest, signature) =
            (swtpm.file("quote", &quote.attest), swtpm.file("signature", &quote.signature));
        let pcrs = swtpm.file("values", pcrs);
        let files = ["-u", &key, "-m", &attest, "-s", &signature, "-f", &pcrs, "-F", "values", "-l", LIST];
        let asked = ["checkquote", "-g", "sha256", "-q", &hex(nonce)];
        tools.run(&[&asked[..], &files].concat())
    };
    let good = check(quote, &NONCE, &pcrs);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(!check(quote, &[0x5b; 32], &pcrs).status.success(), "another nonce");
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let last = quote.attest.len() - 1;
    let altered = Quote { attest: flip(&quote.attest, last), ..quote.clone() };
    assert!(!check(&altered, &NONCE, &pcrs).status.success(), "altered registers in the quote");
    let last = quote.signature.len() - 1;
    let altered = Quote { signature: flip(&quote.signature, last), ..quote.clone() };
    assert!(!check(&altered, &NONCE, &pcrs).status.success(), "an altered signature");
    assert!(!check(quote, &NONCE, &flip(&pcrs, 0)).status.success(), "altered register values");
}
