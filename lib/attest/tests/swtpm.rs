//! Evidence of software TPMs, one of them a copy.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use attest::{
    Appraisal, Code, Counters, Evidence, NONCE, PCRS, Question, Refusal,
    lab::{Lab, NOW},
    qualifying_data, verify,
};
use parts::{Parts, Tool};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use token::PublicKey;
use tpm::Tpm;

const ASKED: [u8; NONCE] = [3; NONCE];

/// A machine with a software TPM that is switched on; off when dropped.
struct Machine {
    process: Child,
    socket: PathBuf,
}

impl Machine {
    /// Switches on the TPM with its state in `folder`, and measures what the lab's host starts.
    fn start(parts: &Parts, folder: &Path, lab: &Lab) -> Self {
        let socket = folder.join("socket");
        let _ = fs::remove_file(&socket);
        let mut command = parts.command(Tool::Swtpm);
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", folder.display()));
        command.args(["--server", &format!("type=unixio,path={}", socket.display())]);
        let process = command.stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not listen");
            sleep(Duration::from_millis(10));
        }
        let machine = Self { process, socket };
        let mut tpm = machine.tpm();
        for event in lab.events() {
            tpm.pcr_extend(event.pcr, &event.sha256.0).unwrap();
        }
        machine
    }

    fn tpm(&self) -> Tpm {
        Tpm::connect(&self.socket).unwrap()
    }

    fn evidence(&self, lab: &Lab) -> Evidence {
        let mut tpm = self.tpm();
        let data = qualifying_data(&ASKED, &PublicKey::of(&lab.identity));
        let quote = tpm.quote(&data, &PCRS.collect::<Vec<_>>()).unwrap();
        lab.evidence_by(tpm.attestation_key().unwrap(), quote, lab.events())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn judge(lab: &Lab, machine: &Machine, seen: Option<Counters>) -> Result<Appraisal, Refusal> {
    let question = Question { nonce: &ASKED, now: NOW, crl: None, seen };
    verify(&machine.evidence(lab), &lab.policy(), &question)
}

#[test]
fn a_copied_tpm_is_found_by_its_counters() {
    let Ok(parts) = Parts::locate(&parts::default_dir()) else {
        println!("skipped: no lab parts");
        return;
    };
    let (lab, scratch) = (Lab::default(), tempfile::tempdir().unwrap());
    let (folder, copied) = (scratch.path().join("tpm"), scratch.path().join("copy"));
    for folder in [&folder, &copied] {
        fs::create_dir(folder).unwrap();
    }
    let first = judge(&lab, &Machine::start(&parts, &folder, &lab), None).unwrap().counters;
    for file in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), copied.join(file.file_name())).unwrap();
        }
    }
    let original = Machine::start(&parts, &folder, &lab);
    sleep(Duration::from_secs(1));
    let copy = Machine::start(&parts, &copied, &lab);
    // The original goes on from where it was. Its copy counts the same starts, but its clock is behind.
    let seen = judge(&lab, &original, Some(first)).unwrap().counters;
    assert_eq!(seen.reset_count, first.reset_count + 1);
    assert_eq!(judge(&lab, &copy, Some(first)).unwrap().counters.reset_count, seen.reset_count);
    assert_eq!(judge(&lab, &copy, Some(seen)).unwrap_err().code, Code::Clock);
    // Also if the copy was asked first.
    let copys = judge(&lab, &copy, None).unwrap().counters;
    let seen = copys.later(judge(&lab, &original, Some(copys)).unwrap().counters);
    assert_eq!(judge(&lab, &copy, Some(seen)).unwrap_err().code, Code::Clock);
    let key = copy.tpm().attestation_key().unwrap();
    assert_eq!(original.evidence(&lab).attestation_key.0, key, "the very same TPM, by its keys");
}
