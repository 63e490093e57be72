//! What somebody between the processor and a real software TPM learns, and what becomes of what he alters.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod bus;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use bus::{Bus, Exchange, Listen, Tamper, code, finds_the_key, parts_of, tells_a_password};
use parts::{Parts, Tool};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tpm::{
    Approval, Error, Hierarchy, Limit, NV_FLOOR, NV_IDENTITY, Policy, STORAGE_ROOT, SigningKey, Tpm,
    make_credential,
};

const OWNER: &[u8] = b"the owner's authorisation value\0";
const LOCKOUT: &[u8] = b"the lockout authorisation value!";
const KEY_AUTH: &[u8] = b"the value of the signing key";
const SECRET: &[u8] = b"what opens the firmware store";
const CREDENTIAL: &[u8] = b"what only the certified TPM told";

const PCR_EXTEND: u32 = 0x182;
const PCR_READ: u32 = 0x17e;
const UNSEAL: u32 = 0x15e;
const NV_READ: u32 = 0x14e;

struct Board {
    swtpm: Child,
    folder: TempDir,
}

impl Board {
    fn new() -> Option<Self> {
        let Ok(parts) = Parts::locate(&parts::default_dir()) else {
            println!("skipped: no lab parts");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("tpm.sock");
        let mut swtpm = parts.command(Tool::Swtpm);
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={}", folder.path().display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={},mode=0600", socket.display()));
        let swtpm = swtpm.stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { swtpm, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    fn tpm(&self) -> Tpm {
        let mut tpm = Tpm::connect(&self.socket()).unwrap();
        tpm.secure(None).unwrap();
        tpm
    }

    /// A connection with somebody on the bus.
    fn over(&self, tamper: impl Tamper) -> (Tpm, Bus) {
        let here = self.folder.path().join("bus.sock");
        std::fs::remove_file(&here).unwrap_or_default();
        let bus = Bus::between(&here, &self.socket(), tamper);
        (Tpm::connect(&here).unwrap(), bus)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.swtpm.kill().unwrap();
        self.swtpm.wait().unwrap();
    }
}

struct Enrolled {
    key: SigningKey,
    approval: Approval,
    bound: Vec<u8>,
    free: Vec<u8>,
}

fn enrol(tpm: &mut Tpm) -> Enrolled {
    tpm.make_storage_root(&[]).unwrap();
    let floor = tpm.nv_define_counter(&[], NV_FLOOR).unwrap();
    let (ek, ak) = (tpm.endorsement_key().unwrap(), tpm.attestation_key().unwrap());
    let credential = make_credential(&ek, &ak, CREDENTIAL).unwrap();
    assert_eq!(**tpm.activate_credential(&credential).unwrap(), *CREDENTIAL);
    let key = tpm.create_signing_key(KEY_AUTH).unwrap();
    let values = tpm.pcr_read(&[11, 12]).unwrap();
    let limit = Some(Limit { index: NV_FLOOR, at_most: floor });
    let approval = tpm.approve(&key, KEY_AUTH, b"bus", &values, limit).unwrap();
    tpm.sign(&key, KEY_AUTH, b"a message that is longer than a digest").unwrap();
    let bound = tpm.seal(SECRET, Policy::Authorized { key: &key.public, reference: b"bus" }).unwrap();
    let free = tpm.seal(SECRET, Policy::None).unwrap();
    tpm.nv_write_once(&[], NV_IDENTITY, b"who this is").unwrap();
    tpm.set_auth(Hierarchy::Owner, &[], OWNER).unwrap();
    tpm.set_auth(Hierarchy::Lockout, &[], LOCKOUT).unwrap();
    Enrolled { key, approval, bound, free }
}

fn start(tpm: &mut Tpm, host: &Enrolled) {
    assert_eq!(tpm.nv_read(NV_IDENTITY).unwrap().unwrap(), b"who this is");
    let opened = tpm.unseal_approved(&host.bound, &host.key.public, b"bus", &host.approval).unwrap();
    assert_eq!(**opened, *SECRET);
    assert_eq!(**tpm.unseal(&host.free).unwrap(), *SECRET);
    tpm.nv_increment(OWNER, NV_FLOOR).unwrap();
    tpm.nv_undefine(OWNER, NV_FLOOR).unwrap();
    tpm.set_auth(Hierarchy::Owner, OWNER, &[7; 32]).unwrap();
    tpm.clear(LOCKOUT).unwrap();
}

/// What this crate did before, and what everybody can do who has no session: an empty password.
fn unseal_in_the_clear(board: &Board, blob: &[u8]) -> Bus {
    let here = board.folder.path().join("clear.sock");
    let bus = Bus::between(&here, &board.socket(), Listen);
    let mut stream = UnixStream::connect(here).unwrap();
    let mut ask = |code: u32, handle: u32, parameters: &[u8]| {
        let password = [&9u32.to_be_bytes()[..], &0x4000_0009u32.to_be_bytes(), &[0, 0, 1, 0, 0]].concat();
        let body = [&code.to_be_bytes()[..], &handle.to_be_bytes(), &password, parameters].concat();
        let size = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
        stream.write_all(&[&[0x80, 2], &size[..], &body].concat()).unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    let [private, public, ..] = parts_of(blob);
    let loaded = ask(0x157, STORAGE_ROOT, &[private, public].concat());
    let handle = u32::from_be_bytes(loaded[10..14].try_into().unwrap());
    assert_eq!(code(&ask(UNSEAL, handle, &[])), 0);
    bus
}

#[test]
fn neither_secrets_nor_authorisation_values_cross_the_bus() {
    let Some(board) = Board::new() else { return };
    let (mut tpm, bus) = board.over(Listen);
    let name = tpm.secure(None).unwrap();
    let host = enrol(&mut tpm);
    drop(tpm);
    // The same search finds the key where it does cross.
    let clear = unseal_in_the_clear(&board, &host.free).seen();
    assert!(finds_the_key(&clear, &host.free) && !tells_a_password(&clear));
    let enrolment = bus.seen();
    let (mut tpm, bus) = board.over(Listen);
    tpm.secure(Some(&name)).unwrap();
    start(&mut tpm, &host);
    drop(tpm);
    let seen = [enrolment, bus.seen()].concat();
    for code in [0x153, UNSEAL, 0x129, 0x137, 0x134, 0x126, 0x15d, 0x147] {
        assert!(seen.iter().any(|exchange| exchange.code() == code), "{code:#x} was not asked");
    }
    assert!(bus.saw(b"who this is") && !bus.saw(SECRET));
    for secret in [OWNER, &OWNER[..31], LOCKOUT, KEY_AUTH, CREDENTIAL, &[7; 32]] {
        for Exchange { command, answer } in &seen {
            let clear = |frame: &[u8]| frame.windows(secret.len()).any(|window| window == secret);
            assert!(!clear(command) && !clear(answer), "{:?}", String::from_utf8_lossy(secret));
        }
    }
    assert!(!finds_the_key(&seen, &host.bound) && !finds_the_key(&seen, &host.free));
    assert!(!tells_a_password(&seen));
    let told = [&0x4000_0009u32.to_be_bytes()[..], &[0, 0, 1, 0, 5], b"owner"].concat();
    assert!(tells_a_password(&[Exchange { command: told, answer: Vec::new() }]));
}

/// Flips a bit of one byte in the answers to one command.
struct Flip {
    code: u32,
    at: usize,
}

impl Tamper for Flip {
    fn answer(&mut self, _: &[Exchange], command: &[u8], answer: &mut Vec<u8>) {
        if code(command) == self.code {
            answer[self.at] ^= 1;
        }
    }
}

#[test]
fn every_altered_byte_of_an_answer_is_found() {
    let Some(board) = Board::new() else { return };
    let mut tpm = board.tpm();
    tpm.nv_define_counter(&[], NV_FLOOR).unwrap();
    let blob = tpm.seal(SECRET, Policy::None).unwrap();
    drop(tpm);
    type Ask = fn(&mut Tpm, &[u8]) -> Result<(), Error>;
    let asked: [(u32, Ask); 3] = [
        (UNSEAL, |tpm, blob| tpm.unseal(blob).map(drop)),
        (NV_READ, |tpm, _| tpm.nv_counter(NV_FLOOR).map(drop)),
        (PCR_READ, |tpm, _| tpm.pcr_read(&[11]).map(drop)),
    ];
    for (code, ask) in asked {
        let (mut tpm, bus) = board.over(Listen);
        tpm.secure(None).unwrap();
        ask(&mut tpm, &blob).unwrap();
        drop(tpm);
        let length = bus.seen().iter().find(|exchange| exchange.code() == code).unwrap().answer.len();
        // Another size is no answer at all, another response code is a refusal.
        for at in [0, 1].into_iter().chain(10..length) {
            let (mut tpm, _) = board.over(Flip { code, at });
            tpm.secure(None).unwrap();
            let refused = ask(&mut tpm, &blob).unwrap_err();
            assert!(matches!(refused, Error::Altered), "byte {at} of {code:#x}: {refused}");
            assert_eq!(refused.code(), "tpm.altered");
            assert!(matches!(tpm.pcr_read(&[11]), Err(Error::Io(_))), "the connection goes on");
        }
    }
}

/// Gives the answer that the same command had before; the TPM does not hear of the second.
struct Replay(u32);

impl Tamper for Replay {
    fn command(&mut self, command: &mut Vec<u8>) {
        if code(command) == self.0 {
            self.0 = 0;
        } else if self.0 == 0 && code(command) == PCR_EXTEND {
            // TPM2_GetRandom of one byte, for the TPM to have something to do.
            *command = b"\x80\x01\0\0\0\x0c\0\0\x01\x7b\0\x01".to_vec();
        }
    }

    fn answer(&mut self, before: &[Exchange], command: &[u8], answer: &mut Vec<u8>) {
        if code(command) == 0x17b {
            *answer = before.iter().find(|exchange| exchange.code() == PCR_EXTEND).unwrap().answer.clone();
        }
    }
}

#[test]
fn a_measurement_that_never_reached_the_tpm_is_missed_and_an_altered_one_refused() {
    let Some(board) = Board::new() else { return };
    let (mut tpm, _) = board.over(Replay(PCR_EXTEND));
    tpm.pcr_extend(11, &[1; 32]).unwrap();
    // Without a session everything that is said is believed.
    tpm.pcr_extend(11, &[2; 32]).unwrap();
    drop(tpm);
    let (mut tpm, _) = board.over(Replay(PCR_EXTEND));
    tpm.secure(None).unwrap();
    tpm.pcr_extend(11, &[1; 32]).unwrap();
    assert!(matches!(tpm.pcr_extend(11, &[2; 32]), Err(Error::Altered)));
    drop(tpm);

    struct Other;
    impl Tamper for Other {
        fn command(&mut self, command: &mut Vec<u8>) {
            if code(command) == PCR_EXTEND {
                *command.last_mut().unwrap() ^= 1;
            }
        }
    }
    let (mut tpm, _) = board.over(Other);
    tpm.secure(None).unwrap();
    let before = tpm.pcr_read(&[11]).unwrap();
    assert!(matches!(tpm.pcr_extend(11, &[3; 32]), Err(Error::Auth)));
    assert_eq!(tpm.pcr_read(&[11]).unwrap(), before);
}

/// Puts a key of his own in the place of the TPM's endorsement key.
struct Pose {
    own: Vec<u8>,
    theirs: Vec<u8>,
}

impl Tamper for Pose {
    fn answer(&mut self, _: &[Exchange], _: &[u8], answer: &mut Vec<u8>) {
        for (own, theirs) in [(&self.own[1..33], &self.theirs[1..33]), (&self.own[33..], &self.theirs[33..])]
        {
            if let Some(at) = answer.windows(32).position(|window| window == theirs) {
                answer[at..at + 32].copy_from_slice(own);
            }
        }
    }
}

#[test]
fn another_key_in_the_place_of_the_endorsement_key_is_refused() {
    let Some(board) = Board::new() else { return };
    let mut tpm = board.tpm();
    let (name, ek) = (tpm.secure(None).unwrap(), tpm.endorsement_key().unwrap());
    let theirs = tpm::endorsement_point(&ek).unwrap().to_vec();
    let pose = || {
        let own = PrivateKey::generate(&ECDH_P256).unwrap().compute_public_key().unwrap().as_ref().to_vec();
        Pose { own, theirs: theirs.clone() }
    };
    // Made for this time, and kept in the TPM.
    for kept in [false, true] {
        if kept {
            tpm.make_storage_root(&[]).unwrap();
        }
        drop(tpm);
        let (mut posed, bus) = board.over(pose());
        assert!(matches!(posed.secure(Some(&name)), Err(Error::Foreign)));
        assert!(matches!(posed.seal(SECRET, Policy::None), Err(Error::Unsecured)));
        assert!(!bus.seen().iter().any(|exchange| exchange.code() == 0x176), "no session was begun");
        drop(posed);
        // Who knows no name begins one, and shows the authority the key that no maker certified.
        let (mut posed, _) = board.over(pose());
        let shown = posed.secure(None).unwrap();
        assert_ne!(shown, name);
        assert!(posed.endorsement_key().is_err() || posed.endorsement_key().is_ok_and(|key| key != ek));
        assert!(posed.seal(SECRET, Policy::None).is_err());
        drop(posed);
        tpm = board.tpm();
        assert_eq!(tpm.secure(Some(&name)).unwrap(), name);
    }
    drop(tpm);
    let other = Board::new().unwrap();
    let mut tpm = Tpm::connect(&other.socket()).unwrap();
    let refused = tpm.secure(Some(&name)).unwrap_err();
    assert_eq!(refused.code(), "tpm.foreign");
}
