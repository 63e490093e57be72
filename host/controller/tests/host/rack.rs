//! A host of real processes: swtpm, security chip, controller, volume card. Only the main board is played:
//! it follows the reset line and answers as the BMC, on the real sockets.

use aws_lc_rs::digest::{SHA256, digest};
use host_api::{Call as _, HostStatus, LogRecord, ReadLog, ReadStatus};
use ids::{HostId, Identity, Slot};
use parts::{Parts, Tool};
use pki::Ca;
use service::{CallError, Client};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};
use token::{Claims, Ed25519KeyPair, PublicKey};
use wire::{Link, board, chip};

const DAY: Duration = Duration::from_secs(86_400);
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

/// Another package's program: cargo builds only this package's own for a test.
fn program(package: &str, name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", package]).status();
    assert!(built.unwrap().success());
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
    _chip: Process,
    tpm: Process,
    pub(crate) board: Arc<Mutex<Board>>,
    pub(crate) ca: Ca,
    pub(crate) host: HostId,
    pub(crate) issuer: Ed25519KeyPair,
    pub(crate) holder: Ed25519KeyPair,
    pub(crate) dir: tempfile::TempDir,
}

impl Rack {
    /// A host with firmware in its flash and this known-good file (`None`: the right one).
    pub(crate) fn start(known_good: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["state", "volumes", "functions", "tpm", "pki"] {
            fs::create_dir(at(folder)).unwrap();
        }
        let firmware: Vec<_> = (0..FIRMWARE).map(|n| u8::try_from(n % 253).unwrap()).collect();
        fs::write(at("code"), &firmware).unwrap();
        fs::write(at("variables"), vec![0xff; FIRMWARE]).unwrap();
        let hash = digest(&SHA256, &firmware).as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>();
        fs::write(at("known-good"), known_good.map_or(format!("{hash}  firmware\n"), str::to_owned)).unwrap();
        let tpm = start_tpm(dir.path());
        let mut chip = Command::new(program("security-chip", "azote-security-chip"));
        for name in ["code", "variables", "nbd", "control", "line"] {
            chip.arg(format!("--{name}")).arg(at(name));
        }
        let chip = Process(chip.spawn().unwrap());
        wait("the chip", || at("line").exists().then_some(()));
        let board = play_board(&at("line"), &at("bmc"));
        let host = HostId::from_random(u128::from(std::process::id()));
        let ca = Ca::create(&at("pki")).unwrap();
        let issuer = Ed25519KeyPair::generate().unwrap();
        fs::write(at("keys"), format!("{}\n", String::from(PublicKey::of(&issuer)))).unwrap();
        let enrolled = controller(dir.path(), &["enrol", "--host", host.as_str()]).output().unwrap();
        assert!(enrolled.status.success());
        let request = String::from_utf8(enrolled.stdout).unwrap();
        let chain = ca.issue(&request, &Identity::Host(host.clone()), true, DAY).unwrap();
        fs::write(at("certificate"), chain).unwrap();
        let controller = run_controller(dir.path());
        let holder = Ed25519KeyPair::generate().unwrap();
        Self { controller, _chip: chip, tpm, board, ca, host, issuer, holder, dir }
    }

    /// Kills the controller, switches the host off and on (the TPM's registers start from zero), and starts it.
    pub(crate) fn power_cycle(&mut self) {
        self.controller.0.kill().unwrap();
        self.controller.0.wait().unwrap();
        self.tpm.0.kill().unwrap();
        self.tpm.0.wait().unwrap();
        fs::remove_file(self.dir.path().join("tpm.sock")).unwrap_or_default();
        self.tpm = start_tpm(self.dir.path());
        self.controller = run_controller(self.dir.path());
    }

    /// Starts a controller that is not expected to serve; gives what it said.
    pub(crate) fn try_controller(&mut self) -> Output {
        self.controller.0.kill().unwrap();
        self.controller.0.wait().unwrap();
        command_to_run(self.dir.path()).stderr(Stdio::piped()).output().unwrap()
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

    /// What only this host's TPM can open.
    pub(crate) fn records_on_disk(&self) -> Vec<LogRecord> {
        let mut tpm = tpm::Tpm::connect(&self.dir.path().join("tpm.sock")).unwrap();
        let key = service::unseal_from(&self.dir.path().join("state/log.sealed"), &mut tpm).unwrap();
        let key = host_log::LogKey::new(&key).unwrap();
        let read = |file: PathBuf| host_log::read(&key, &fs::read(file).unwrap()).unwrap().unwrap();
        let frames = self.segments().into_iter().map(read).flat_map(|segment| segment.frames);
        let lines: Vec<_> = frames.flat_map(|frame| frame.lines).collect();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
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
    wait("swtpm", || socket.exists().then_some(()));
    process
}

fn controller(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_azote-controller"));
    command.args(arguments).arg("--state").arg(dir.join("state")).arg("--tpm").arg(dir.join("tpm.sock"));
    command
}

fn command_to_run(dir: &Path) -> Command {
    let mut command =
        controller(dir, &["run", "--listen", "127.0.0.1:0", "--stop-grace", "1", "--log-capacity", "1"]);
    command.arg("--card").arg(program("volume-card", "azote-volume-card"));
    for (flag, name) in [
        ("chip", "control"),
        ("board", "bmc"),
        ("functions", "functions"),
        ("volumes", "volumes"),
        ("known-good", "known-good"),
        ("token-keys", "keys"),
        ("certificate", "certificate"),
        ("address-file", "address"),
    ] {
        command.arg(format!("--{flag}")).arg(dir.join(name));
    }
    command
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
