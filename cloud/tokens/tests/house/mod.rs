//! An environment for tests: an authority, a software TPM, services as the real programs, their callers.

use ids::Identity;
use parts::{Parts, Tool};
use pki::Ca;
use service::{Client, Credentials, Key};
use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct House {
    pub(crate) ca: Ca,
    tpm: Child,
    dir: TempDir,
}

/// A running service.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    #[allow(dead_code, reason = "not every test looks there")]
    pub(crate) state: PathBuf,
    pub(crate) log: PathBuf,
    name: Identity,
    process: Child,
    command: Command,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path()).unwrap();
        let folder = dir.path().join("tpm");
        fs::create_dir(&folder).unwrap();
        let mut swtpm = match Parts::locate(&parts::default_dir()) {
            Ok(parts) => parts.command(Tool::Swtpm),
            Err(_) => Command::new("swtpm"),
        };
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={}", folder.display())).arg("--server");
        swtpm.arg(format!("type=unixio,path={},mode=0600", dir.path().join("tpm.sock").display()));
        let tpm = swtpm.spawn().expect("swtpm is needed: run `cargo xtask parts`");
        let house = Self { ca, tpm, dir };
        // The socket is there before anybody listens.
        wait_for(|| UnixStream::connect(house.path("tpm.sock")).is_ok());
        house
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program's command with the flags that `enrol` and `run` share.
    pub(crate) fn command(&self, program: &str, verb: &str, state: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg(verb).arg("--state").arg(state).arg("--tpm").arg(self.path("tpm.sock"));
        command
    }

    /// Enrols and starts `program` as `azote:service/<name>`.
    pub(crate) fn start(&self, program: &str, name: &str, more: &[&str]) -> Running {
        let state = self.path(name);
        fs::create_dir_all(&state).unwrap();
        let identity: Identity = format!("azote:service/{name}").parse().unwrap();
        let enrolled = self.command(program, "enrol", &state).output().unwrap();
        assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
        let request = String::from_utf8(enrolled.stdout).unwrap();
        let certificate = self.path(&format!("{name}.pem"));
        fs::write(&certificate, self.ca.issue(&request, &identity, true, DAY).unwrap()).unwrap();
        let mut command = self.command(program, "run", &state);
        command.arg("--ca").arg(self.path("ca.pem")).arg("--certificate").arg(certificate);
        command.arg("--address-file").arg(self.path(&format!("{name}.address"))).args(more);
        let log = self.path(&format!("{name}.log"));
        let (process, address) = spawn(&mut command, &log);
        Running { address, state, log, name: identity, process, command }
    }

    /// Someone with a certificate of the environment.
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let key = Key::generate().unwrap();
        let chain = self.ca.issue(&key.request().unwrap(), &name.parse().unwrap(), false, DAY).unwrap();
        Credentials::new(&chain, key).unwrap()
    }

    /// A connection of `name` to a service.
    pub(crate) fn client(&self, to: &Running, name: &str) -> Client {
        let me = self.credentials(name);
        Client::new(self.ca.certificate(), to.name.clone(), to.address, Some(&me)).unwrap()
    }
}

impl House {
    /// A connection of somebody without a certificate.
    #[allow(dead_code, reason = "not every service takes strangers")]
    pub(crate) fn stranger(&self, to: &Running) -> Client {
        Client::new(self.ca.certificate(), to.name.clone(), to.address, None).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.tpm.kill().unwrap();
        self.tpm.wait().unwrap();
    }
}

impl Running {
    /// SIGKILL, then the same command again.
    #[allow(dead_code, reason = "not every test restarts its service")]
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The same command again.
    pub(crate) fn restart(&mut self) {
        (self.process, self.address) = spawn(&mut self.command, &self.log);
    }

    /// SIGTERM; gives the exit code.
    #[allow(dead_code, reason = "not every test stops its service")]
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }

    #[allow(dead_code, reason = "not every test reads the log")]
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> (Child, SocketAddr) {
    let file = log.with_extension("address");
    let _ = fs::remove_file(&file);
    let stderr = File::options().create(true).append(true).open(log).unwrap();
    let mut process = command.stderr(stderr).spawn().unwrap();
    wait_for(|| {
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(log).unwrap());
        file.exists()
    });
    // It is confined, and SIGTERM (15) is caught (`proc_pid_status(5)`): it ends by itself when it is told to.
    wait_for(|| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap_or_default();
        status.contains("Seccomp:\t2") && caught & (1 << 14) != 0
    });
    (process, fs::read_to_string(&file).unwrap().parse().unwrap())
}

fn wait_for(mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "not ready in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
