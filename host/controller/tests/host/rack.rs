//! A host of real processes: swtpm, security chip, controller, volume card. Only the main board is played:
//! it follows the reset line and answers as the BMC, on the real sockets.

use crate::{
    bus::{Bus, Listen},
    enrolment,
};
use host_api::{Call as _, HostStatus, LogRecord, ReadLog, ReadStatus};
use ids::{Environment, HostId, Identity, Slot};
use parts::{Parts, Tool};
use pki::{Attestation, Ca};
use release::{Configuration, Folder, Kind, Make, RootKey};
use service::{CallError, Client};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};
use token::{Claims, Ed25519KeyPair, PublicKey};
use wire::{Link, board, chip};

pub(crate) const FIRMWARE: usize = 256 * 1024;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Another package's program: cargo builds only this package's own for a test. It is built with the features that it
/// has in a build of everything, so that such a build serves here.
fn program(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if BUILT.lock().unwrap().insert(name.to_owned()) {
        let built =
            Command::new(env!("CARGO")).args(["build", "--quiet", "--workspace", "--bin", name]).status();
        assert!(built.unwrap().success());
    }
    Path::new(env!("CARGO_BIN_EXE_azote-controller")).with_file_name(name)
}

/// A child that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the played main board saw and has.
#[derive(Default)]
pub(crate) struct Board {
    pub(crate) lines: Vec<chip::Lines>,
    pub(crate) slots: Vec<Slot>,
    boots: u64,
}

pub(crate) struct Rack {
    pub(crate) controller: Process,
    chip: Process,
    tpm: Process,
    /// What goes between the controller and its TPM.
    pub(crate) bus: Bus,
    pub(crate) board: Arc<Mutex<Board>>,
    pub(crate) ca: Ca,
    pub(crate) host: HostId,
    pub(crate) issuer: Ed25519KeyPair,
    pub(crate) holder: Ed25519KeyPair,
    root: RootKey,
    pub(crate) dir: tempfile::TempDir,
}

impl Rack {
    /// A host that was enrolled, switched off and on, and started.
    pub(crate) fn start() -> Self {
        let mut rack = Self::enrolled();
        rack.controller = run_controller(rack.dir.path());
        rack
    }

    /// The same, with a log for a great many requests.
    pub(crate) fn start_with_large_log() -> Self {
        let mut rack = Self::enrolled_with(&[], "log-capacity=16\n");
        rack.controller = run_controller(rack.dir.path());
        rack
    }

    /// A host that was enrolled and switched off and on.
    pub(crate) fn enrolled() -> Self {
        Self::enrolled_with(&[], "")
    }

    /// The same, whose store's key has a removable half.
    pub(crate) fn with_security_key() -> Self {
        Self::enrolled_with(&["security-key"], "")
    }

    fn enrolled_with(flags: &[&str], configured: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["state", "volumes", "functions", "tpm", "pki"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("code"), firmware(0)).unwrap();
        fs::write(at("variables"), vec![0xff; FIRMWARE]).unwrap();
        let tpm = start_tpm(dir.path());
        let bus = Bus::between(&at("bus.sock"), &at("tpm.sock"), Listen);
        let chip = start_chip(dir.path());
        let board = play_board(&at("line"), &at("bmc"));
        let host = HostId::from_random(u128::from(std::process::id()));
        let ca = Ca::create(&at("pki")).unwrap();
        let issuer = Ed25519KeyPair::generate().unwrap();
        let holder = Ed25519KeyPair::generate().unwrap();
        let root = RootKey::generate().unwrap();
        let controller = Process(Command::new("true").spawn().unwrap());
        let mut rack = Self { controller, chip, tpm, bus, board, ca, host, issuer, holder, root, dir };
        rack.release("first", 1, 0);
        rack.configure("configuration", 1, configured);
        let enrolled = rack.enrol(flags).wait().unwrap();
        assert!(enrolled.success(), "no enrolment");
        rack.switch_off_and_on();
        rack
    }

    /// Enrols the host once more.
    pub(crate) fn enrol_anew(&mut self) -> ExitStatus {
        self.switch_off_and_on();
        self.enrolment(&[]).stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap()
    }

    fn enrol(&self, flags: &[&str]) -> Child {
        let mut command = self.enrolment(flags);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let instances = Attestation::open_or_create(&self.dir.path().join("pki")).unwrap();
        enrolment::certify(&mut child, &self.ca, &instances, &self.host);
        child
    }

    fn enrolment(&self, flags: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = controller(self.dir.path(), &["enrol", "--host", self.host.as_str()]);
        command.arg("--release").arg(at("first")).arg("--configuration").arg(at("configuration"));
        command.arg("--chip").arg(at("control"));
        for flag in flags {
            command.arg(format!("--{flag}")).arg(at(flag));
        }
        command
    }

    /// Makes a release with the real cards and this firmware.
    pub(crate) fn release(&self, name: &str, svn: u32, firmware_number: usize) -> Folder {
        let card = fs::read(program("azote-volume-card")).unwrap();
        let attests = fs::read(program("azote-attestation-card")).unwrap();
        let policies = include_bytes!("../../../../policies/quotas.toml").to_vec();
        let images = [
            (Kind::Stage1, name.as_bytes().to_vec()),
            (Kind::Controller, b"not started by a stage 1 here".to_vec()),
            (Kind::Policies, policies),
            (Kind::VolumeCard, card),
            (Kind::AttestationCard, attests),
            (Kind::MainboardFirmware, firmware(firmware_number)),
        ];
        let images = images.map(|(kind, bytes)| (kind, kind.to_string(), bytes)).to_vec();
        let environment = Environment::NonProduction;
        let make = Make { version: name, svn, environment, images };
        make.write(&self.dir.path().join(name), &self.root).unwrap()
    }

    /// Makes a configuration.
    pub(crate) fn configure(&self, name: &str, sequence: u64, more: &str) {
        let key = String::from(PublicKey::of(&self.issuer));
        let log = if more.contains("log-capacity") { "" } else { "log-capacity=1\n" };
        let text = format!("stop-grace=1\n{log}token-keys={key}\n{more}");
        let configuration = Configuration { environment: Environment::NonProduction, sequence, text };
        fs::write(self.dir.path().join(name), configuration.sign(self.root.pair()).unwrap()).unwrap();
    }

    /// Updates the host, which was switched off and on before.
    pub(crate) fn update(&self, arguments: &[(&str, &str)]) -> Output {
        self.update_command(arguments).stderr(Stdio::piped()).output().unwrap()
    }

    /// Begins to.
    pub(crate) fn start_update(&self, arguments: &[(&str, &str)]) -> Child {
        self.update_command(arguments).spawn().unwrap()
    }

    fn update_command(&self, arguments: &[(&str, &str)]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = controller(self.dir.path(), &["update"]);
        command.arg("--chip").arg(at("control")).arg("--report").arg(at("report"));
        for (flag, name) in arguments {
            command.arg(format!("--{flag}")).arg(at(name));
        }
        command
    }

    /// Switches the host off and on: the TPM's registers start from zero.
    pub(crate) fn switch_off_and_on(&mut self) {
        self.controller.0.kill().unwrap_or_default();
        self.controller.0.wait().unwrap();
        self.tpm.0.kill().unwrap();
        self.tpm.0.wait().unwrap();
        fs::remove_file(self.dir.path().join("tpm.sock")).unwrap_or_default();
        self.tpm = start_tpm(self.dir.path());
    }

    /// The report of a start that came to nothing: its code and its entry.
    pub(crate) fn report(&self) -> (String, String) {
        let report = fs::read(self.dir.path().join("report")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["stage"], "controller");
        let text = |name: &str| report[name].as_str().unwrap().to_owned();
        (text("code"), text("entry"))
    }

    /// Switches off and on, and starts a controller.
    pub(crate) fn power_cycle(&mut self) {
        self.switch_off_and_on();
        self.controller = run_controller(self.dir.path());
    }

    /// The same of a controller that is not expected to serve; gives what it said.
    pub(crate) fn try_controller(&mut self) -> Output {
        self.switch_off_and_on();
        output(&command_to_run(self.dir.path()))
    }

    /// Starts a controller without a power cycle; gives what it said.
    pub(crate) fn try_controller_again(&mut self) -> Output {
        self.controller.0.kill().unwrap();
        self.controller.0.wait().unwrap();
        output(&command_to_run(self.dir.path()))
    }

    /// Switches the security chip, and with it the main board, off and on.
    pub(crate) fn replace_chip(&mut self) {
        self.chip.0.kill().unwrap();
        self.chip.0.wait().unwrap();
        for name in ["nbd", "control", "line", "bmc"] {
            fs::remove_file(self.dir.path().join(name)).unwrap_or_default();
        }
        self.chip = start_chip(self.dir.path());
        self.board = play_board(&self.dir.path().join("line"), &self.dir.path().join("bmc"));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        fs::read_to_string(self.dir.path().join("address")).unwrap().parse().unwrap()
    }

    fn client(&self) -> Client {
        Client::new(self.ca.certificate(), Identity::Host(self.host.clone()), self.address(), None).unwrap()
    }

    pub(crate) async fn call<C: host_api::Call>(&self, call: C) -> Result<C::Answer, CallError> {
        let request: host_api::Request = call.clone().into();
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).unwrap();
        let claims = Claims {
            issuer: "azote:service/tokens".parse().unwrap(),
            subject: "azote:service/control-plane".parse().unwrap(),
            audience: self.host.clone(),
            expires: now() + 60,
            not_before: now() - 1,
            issued: now() - 1,
            id,
            holder: PublicKey::of(&self.holder),
            apis: vec![C::API],
            resources: request.resources(&self.host),
            uses: 1,
        };
        let token = claims.sign(&self.issuer).unwrap();
        let http = call.http();
        let method = http.method.as_str();
        let proof = token::Call { method, path: &http.target, body: &http.body, token: &token };
        let proof = proof.prove(&self.holder, now()).unwrap();
        let bearer = format!("Bearer {token}");
        let headers = [(token::TOKEN_HEADER, bearer.as_str()), (token::PROOF_HEADER, proof.as_str())];
        self.client().call(method, &http.target, http.body.clone(), &headers).await
    }

    pub(crate) async fn without_token(&self) -> String {
        let http = ReadStatus {}.http();
        let called =
            self.client().call::<HostStatus>(http.method.as_str(), &http.target, http.body, &[]).await;
        called.unwrap_err().code().to_owned()
    }

    pub(crate) async fn refused<C: host_api::Call>(&self, call: C) -> String {
        self.call(call).await.err().unwrap().code().to_owned()
    }

    pub(crate) async fn status(&self) -> HostStatus {
        self.call(ReadStatus {}).await.unwrap()
    }

    /// The whole log, proven to be this host's by one who trusts only the environment's authority.
    pub(crate) async fn log(&self) -> Vec<LogRecord> {
        let status = self.status().await;
        let chain = status.certificate.as_str();
        let host = service::certified_by(self.ca.certificate(), chain, now()).unwrap();
        let page = self.call(ReadLog { after: 0 }).await.unwrap();
        let proven = host_api::verify_log(&PublicKey(host.public_key), [&page]).unwrap();
        proven.into_iter().cloned().collect()
    }

    /// The log's files, in order.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path().join("state/log")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Whether the board's processors run.
    pub(crate) fn runs(&self) -> bool {
        self.lines().last().is_some_and(|lines| lines.run())
    }

    /// Whether they ever did.
    pub(crate) fn ran(&self) -> bool {
        self.lines().iter().any(|lines| lines.run())
    }

    pub(crate) fn lines(&self) -> Vec<chip::Lines> {
        self.board.lock().unwrap().lines.clone()
    }
}

fn start_chip(dir: &Path) -> Process {
    let mut chip = Command::new(program("azote-security-chip"));
    for name in ["code", "variables", "nbd", "control", "line"] {
        chip.arg(format!("--{name}")).arg(dir.join(name));
    }
    let chip = Process(chip.spawn().unwrap());
    wait("the chip", || dir.join("line").exists().then_some(()));
    chip
}

fn start_tpm(dir: &Path) -> Process {
    let mut swtpm = match Parts::locate(&parts::default_dir()) {
        Ok(parts) => parts.command(Tool::Swtpm),
        Err(_) => Command::new("swtpm"),
    };
    let socket = dir.join("tpm.sock");
    swtpm.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.join("tpm").display())]);
    swtpm.args(["--server", &format!("type=unixio,path={}", socket.display())]);
    swtpm.args(["--flags", "not-need-init,startup-clear"]);
    let process = Process(swtpm.spawn().unwrap());
    wait("swtpm", || UnixStream::connect(&socket).ok());
    process
}

fn controller(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_azote-controller"));
    command.args(arguments).arg("--state").arg(dir.join("state")).arg("--tpm").arg(dir.join("bus.sock"));
    command
}

fn command_to_run(dir: &Path) -> Command {
    let mut command = controller(dir, &["run", "--listen", "127.0.0.1:0"]);
    for (flag, name) in [
        ("chip", "control"),
        ("board", "bmc"),
        ("functions", "functions"),
        ("volumes", "volumes"),
        ("certificate", "state/certificate.pem"),
        ("security-key", "security-key"),
        ("address-file", "address"),
        ("report", "report"),
    ] {
        command.arg(format!("--{flag}")).arg(dir.join(name));
    }
    command
}

/// One of several main-board firmwares.
pub(crate) fn firmware(number: usize) -> Vec<u8> {
    (number..number + FIRMWARE).map(|n| u8::try_from(n % 253).unwrap()).collect()
}

/// What a command says that is to end by itself, soon.
fn output(command: &Command) -> Output {
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(command.get_program()).args(command.get_args());
    limited.stderr(Stdio::piped()).output().unwrap()
}

fn run_controller(dir: &Path) -> Process {
    let address = dir.join("address");
    fs::remove_file(&address).unwrap_or_default();
    let mut process = Process(command_to_run(dir).spawn().unwrap());
    wait("the controller", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "the controller ended");
        address.exists().then_some(())
    });
    process
}

fn play_board(line: &Path, bmc: &Path) -> Arc<Mutex<Board>> {
    let board = Arc::new(Mutex::new(Board::default()));
    let line: Link<chip::LineReply, chip::Lines> = wire::connect(line).unwrap();
    let shared = Arc::clone(&board);
    thread::spawn(move || {
        while let Ok((state, _)) = line.receive() {
            let mut board = shared.lock().unwrap();
            let ran = board.lines.last().is_some_and(|lines| lines.run());
            board.boots += u64::from(state.run() && !ran);
            board.lines.push(state);
            line.send(&chip::LineReply::Done, &[]).unwrap();
        }
    });
    let listener = wire::Listener::bind(bmc).unwrap();
    let shared = Arc::clone(&board);
    thread::spawn(move || {
        while let Ok(link) = listener.accept() {
            while let Ok((request, _)) = link.receive() {
                let reply = bmc_answers(&mut shared.lock().unwrap(), &request);
                if link.send(&reply, &[]).is_err() {
                    break;
                }
            }
        }
    });
    board
}

fn bmc_answers(board: &mut Board, request: &board::Request) -> board::Reply {
    match request {
        board::Request::Status => {
            let running = board.lines.last().is_some_and(|lines| lines.run());
            let power = if running { board::Power::Running } else { board::Power::Held };
            let (slots, accelerator, boots) = (board.slots.clone(), "tcg".to_owned(), board.boots);
            return board::Reply::Status(board::Status { power, slots, accelerator, boots });
        }
        board::Request::Plug { slot, .. } => board.slots.push(*slot),
        board::Request::Unplug { slot } => board.slots.retain(|known| known != slot),
        board::Request::PowerButton => {}
    }
    board::Reply::Done
}
