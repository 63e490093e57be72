//! A host whose chip, card and board are threads on the far ends of real private sockets.

use super::*;
use crate::{
    attestation::Attestation,
    board::Board,
    card::Card,
    chip::{Chip, Firmware},
    host::{Booted, Components, Identity, Rules},
    limits::Bounds,
    log::{Log, log_key, on_disk},
    peer::Peer,
    settings::Settings,
    storage::Storage,
};
use host_api::Sha256;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    path::PathBuf,
    thread,
    time::Duration,
};
use token::Keys;
use wire::{Fault, Link, board, card, chip};

/// When every test begins.
pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const SIZE: u64 = 1 << 20;
pub(super) const CARD_KEY: [u8; 32] = [3; 32];
const FIRMWARE: [u8; 32] = [0xaa; 32];
/// Most of each sensitive operation in an hour.
pub(super) const SENSITIVE: u64 = 5;
const PLENTY: u64 = 1 << 20;

pub(super) fn host_id() -> HostId {
    HostId::from_random(77)
}

pub(super) fn good_firmware() -> Sha256 {
    Sha256::from_digest(&FIRMWARE)
}

fn now() -> Clock {
    Clock::new(|| Duration::from_secs(NOW), Duration::ZERO)
}

/// One thing that a component was asked.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) what: String,
    /// Intents that were in the log's files at that moment.
    pub(super) intents_on_disk: usize,
}

/// What a component remembers and how it will behave.
#[derive(Default)]
struct Memory {
    seen: Vec<Seen>,
    next_fault: Option<String>,
    dead: bool,
    firmware: [u8; 32],
    held: bool,
    events: Vec<chip::Event>,
    volumes: Vec<VolumeId>,
    slots: Vec<Slot>,
    power: Option<(board::Power, u64)>,
}

/// A component's far end.
#[derive(Clone)]
pub(super) struct Part(Arc<Mutex<Memory>>);

impl Part {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Memory { firmware: FIRMWARE, held: true, ..Memory::default() })))
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.what).collect()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().seen.clone()
    }

    pub(super) fn answer_next(&self, code: &str) {
        self.0.lock().unwrap().next_fault = Some(code.to_owned());
    }

    pub(super) fn die(&self) {
        self.0.lock().unwrap().dead = true;
    }

    pub(super) fn set_firmware(&self, hash: [u8; 32]) {
        self.0.lock().unwrap().firmware = hash;
    }

    pub(super) fn set_power(&self, power: board::Power, boots: u64) {
        self.0.lock().unwrap().power = Some((power, boots));
    }

    pub(super) fn guest_writes_flash(&self) {
        let (master, target) = (chip::Master::Cpu, chip::Target::Code);
        let refused = chip::Attempts { master, target, offset: 0, bytes: 4, attempts: 1, changing: 1 };
        let what = chip::EventKind::WriteRefused(refused);
        self.0.lock().unwrap().events.push(chip::Event { seq: 1, what });
    }

    /// Answers on a new socket; gives the controller's end.
    fn serve<Q, R>(
        &self,
        log: PathBuf,
        answer: fn(&mut Memory, Q) -> (&'static str, R),
        fault: fn(Fault) -> R,
    ) -> Link<Q, R>
    where
        Q: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let (ours, theirs) = Link::<Q, R>::pair().unwrap();
        let memory = Arc::clone(&self.0);
        thread::spawn(move || {
            while let Ok((request, _fds)) = theirs.receive() {
                let mut memory = memory.lock().unwrap();
                if memory.dead {
                    return;
                }
                let (what, mut reply) = answer(&mut memory, request);
                if let Some(code) = memory.next_fault.take() {
                    reply = fault(Fault::new(&code, "from inside"));
                }
                let intents = on_disk(&log).into_iter().filter(|record| record.kind == RecordKind::Intent);
                let intents_on_disk = intents.count();
                memory.seen.push(Seen { what: what.to_owned(), intents_on_disk });
                theirs.send(&reply, &[]).unwrap();
            }
        });
        ours
    }
}

fn card_answers(memory: &mut Memory, request: card::Request) -> (&'static str, card::Reply) {
    match request {
        card::Request::Hello => ("hello", card::Reply::Hello { public_key: CARD_KEY.to_vec() }),
        card::Request::Attach(attach) => {
            assert_eq!((attach.host, attach.size), (host_id(), SIZE));
            if memory.next_fault.is_none() {
                memory.volumes.push(attach.volume);
            }
            ("attach", card::Reply::Done)
        }
        card::Request::Connect { .. } => ("connect", card::Reply::Done),
        card::Request::Detach { volume, .. } => {
            memory.volumes.retain(|known| *known != volume);
            ("detach", card::Reply::Done)
        }
        card::Request::Status => {
            let status = |volume: &VolumeId| card::VolumeStatus {
                volume: volume.clone(),
                state: card::FunctionState::Enabled,
                reads: 1,
                writes: 2,
                errors: 0,
            };
            ("status", card::Reply::Status { volumes: memory.volumes.iter().map(status).collect() })
        }
    }
}

fn chip_answers(memory: &mut Memory, request: chip::Request) -> (&'static str, chip::Reply) {
    match request {
        chip::Request::Status => {
            let lines = if memory.held { chip::Lines::HELD } else { chip::Lines::RELEASED };
            ("status", chip::Reply::Status { lines, refused_writes: 0 })
        }
        chip::Request::Measure { region: chip::Region::Bmc } => {
            // No flash of its own.
            let sha256 = Sha256::from_digest(&[0; 32]).to_string();
            ("measure-bmc", chip::Reply::Measured { sha256, length: 0 })
        }
        chip::Request::Measure { .. } => {
            let sha256 = Sha256::from_digest(&memory.firmware).to_string();
            ("measure", chip::Reply::Measured { sha256, length: 4096 })
        }
        chip::Request::Release { line, firmware } => {
            let told = match line {
                chip::Line::Bmc => "release-bmc",
                chip::Line::Board => "release-board",
                chip::Line::Cpu => "release",
            };
            if firmware.code != Sha256::from_digest(&memory.firmware).as_str() {
                return (told, chip::Reply::Fault(Fault::new("chip.unverified", "")));
            }
            memory.held &= line != chip::Line::Cpu;
            (told, chip::Reply::Done)
        }
        chip::Request::Hold { line } => {
            memory.held |= line == chip::Line::Cpu;
            (if line == chip::Line::Cpu { "hold" } else { "hold-board" }, chip::Reply::Done)
        }
        chip::Request::Update { .. } => ("update", chip::Reply::Done),
        chip::Request::Events { after } => {
            let events = memory.events.iter().filter(|event| event.seq > after).cloned().collect();
            ("events", chip::Reply::Events { events, dropped: 0 })
        }
    }
}

fn board_answers(memory: &mut Memory, request: board::Request) -> (&'static str, board::Reply) {
    match request {
        board::Request::Status => {
            let (power, boots) = memory.power.unwrap_or((board::Power::Running, 1));
            let (slots, accelerator) = (memory.slots.clone(), "tcg".to_owned());
            ("status", board::Reply::Status(board::Status { power, slots, accelerator, boots }))
        }
        board::Request::Plug { slot, socket } => {
            std::os::unix::net::UnixStream::connect(&socket).unwrap();
            if memory.next_fault.is_none() {
                memory.slots.push(slot);
            }
            ("plug", board::Reply::Done)
        }
        board::Request::Unplug { slot } => {
            memory.slots.retain(|known| *known != slot);
            ("unplug", board::Reply::Done)
        }
        board::Request::PowerButton => ("power-button", board::Reply::Done),
    }
}

pub(super) struct Rig {
    dir: tempfile::TempDir,
    /// The keys of the token service that the host was installed with.
    installed: Keys,
    pub(super) issuer: Ed25519KeyPair,
    pub(super) key: service::Key,
    pub(super) host: Arc<Host>,
    pub(super) door: Arc<Door>,
    pub(super) chip: Part,
    pub(super) card: Part,
    pub(super) board: Part,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_log_capacity(PLENTY)
    }

    pub(super) fn with_log_capacity(capacity: u64) -> Self {
        Self::build(capacity, |_| ())
    }

    /// A host whose log has nowhere to write.
    pub(super) fn with_failing_log() -> Self {
        Self::build(PLENTY, |folder| fs::remove_dir(folder).unwrap())
    }

    fn build(capacity: u64, spoil: impl FnOnce(&std::path::Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["volumes", "functions", "log"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (key, issuer) = (service::Key::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let installed = Keys::new(vec![PublicKey::of(&issuer)]).unwrap();
        Self::start(dir, key, installed, issuer, capacity, spoil)
    }

    /// The same host after its controller, and all its components, started anew.
    pub(super) fn restart(self) -> Self {
        let Self { dir, installed, issuer, key, host, door, .. } = self;
        drop((host, door));
        Self::start(dir, key, installed, issuer, PLENTY, |_| ())
    }

    fn start(
        dir: tempfile::TempDir,
        key: service::Key,
        installed: Keys,
        issuer: Ed25519KeyPair,
        capacity: u64,
        spoil: impl FnOnce(&std::path::Path),
    ) -> Self {
        let path = dir.path().join("log");
        let own = || service::Key::from_seed(key.seed()).unwrap();
        // The thread that wrote it before may still be closing it.
        let mut tries = (0..1000).map(|_| {
            thread::sleep(Duration::from_millis(1));
            Log::open(&path, capacity, log_key(), own())
        });
        let mut log = tries.find(|log| !matches!(log, Err(LogError::InUse(_)))).unwrap().unwrap();
        log.set_clock(now());
        let history = log.take_history();
        let log = Writer::new(log);
        spoil(&path);
        let [chip, card, board] = [Part::new(), Part::new(), Part::new()];
        let parts = Components {
            attestation: Attestation::none(),
            chip: Chip::new(Peer::new(chip.serve(path.clone(), chip_answers, chip::Reply::Fault)).unwrap()),
            board: Board::new(
                Peer::new(board.serve(path.clone(), board_answers, board::Reply::Fault)).unwrap(),
            ),
            card: Card::connect(
                Sha256::from_digest(&[1; 32]),
                Peer::new(card.serve(path, card_answers, card::Reply::Fault)).unwrap(),
            )
            .unwrap(),
            storage: Storage::open(&dir.path().join("volumes"), &dir.path().join("functions")).unwrap(),
        };
        let certificate = "-----BEGIN CERTIFICATE-----\n".parse().unwrap();
        let firmware = Firmware { code: good_firmware(), bmc: None };
        let booted = Booted {
            measurements: vec![],
            registers: vec![],
            release: None,
            firmware: Some(firmware.clone()),
            out_of_service: None,
        };
        let settings =
            Settings::open(&dir.path().join("settings"), own(), host_id(), installed.clone()).unwrap();
        let who = Identity { host: host_id(), certificate, key: own() };
        let rules = Rules {
            firmware,
            shelf: None,
            stop_grace: Duration::from_millis(500),
            settings,
            hypervisors: None,
            attester: None,
            certificates: None,
            eraser: None,
        };
        let host = Arc::new(Host::new(who, parts, rules, booted, log.clone(), now()));
        let limits = Limits::new(Bounds { sensitive: SENSITIVE, window_seconds: 3600 });
        let door = Arc::new(Door::new(Arc::clone(&host), log, now(), NOW, limits, &history));
        Self { dir, installed, issuer, key, host, door, chip, card, board }
    }

    pub(super) fn make_storage(&self, volume: &VolumeId) {
        let path = self.dir.path().join(format!("volumes/{volume}.img"));
        File::create(path).unwrap().set_len(SIZE).unwrap();
    }

    pub(super) fn function_path(&self, volume: &VolumeId) -> PathBuf {
        self.dir.path().join(format!("functions/{volume}.sock"))
    }

    /// The records as they are on disk now.
    pub(super) fn records(&self) -> Vec<LogRecord> {
        on_disk(&self.dir.path().join("log"))
    }
}
