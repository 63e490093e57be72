//! A card's real process, with the controller's and the hypervisor's ends of its sockets in the test's hands.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "not every user of the rig needs all of it"
)]

use ids::{HostId, VolumeId};
use nvme::driver::{Driver, Options};
use nvme_host::{Function, FunctionDriver, Shared};
use rustix::{
    fs::OFlags,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use seal::{Context, VolumeKey, seal};
use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use vfio_user::{Client, ClientError, pci::CONFIG};
use wire::{
    Link,
    card::{Attach, Reply, Request, VolumeStatus},
};

/// Guest memory of a rig in bytes.
pub const GUEST: u64 = 64 << 20;

pub fn host() -> HostId {
    "h-0123456789abcdef0".parse().unwrap()
}

pub fn volume(number: u8) -> VolumeId {
    VolumeId::from_random(u128::from(number))
}

/// A card's process.
pub struct Card {
    pub child: Child,
    pub control: Link<Request, Reply>,
    pub public_key: Vec<u8>,
}

impl Card {
    /// Starts `program`, the card's binary.
    pub fn start(program: &Path) -> Self {
        Self::start_with(program, &[])
    }

    /// The same, with options.
    pub fn start_with(program: &Path, options: &[&str]) -> Self {
        let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
        // The socket comes as standard input, so that no descriptor needs to lose its close-on-exec flag.
        let child = Command::new(program)
            .args(options)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or("error".to_owned()))
            .spawn()
            .unwrap();
        let Ok(Reply::Hello { public_key }) = ours.call(&Request::Hello, &[]) else { panic!("no hello") };
        Self { child, control: ours, public_key }
    }

    /// The code of the fault, or "done".
    pub fn call(&self, request: &Request, fds: &[&dyn AsFd]) -> String {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        match self.control.call(request, &fds).unwrap() {
            Reply::Done => "done".to_owned(),
            Reply::Fault(fault) => fault.code,
            other => panic!("{other:?}"),
        }
    }

    pub fn attach(&self, disk: &Disk) -> String {
        let context = Context { host: host(), volume: disk.volume.clone() };
        self.attach_sealed(disk, seal(&self.public_key, &context, &disk.key).unwrap())
    }

    pub fn attach_sealed(&self, disk: &Disk, sealed_key: Vec<u8>) -> String {
        let request = disk.request(sealed_key);
        self.call(&request, &[&disk.open(), &disk.listen()])
    }

    pub fn detach(&self, disk: &Disk, force: bool) -> String {
        self.call(&Request::Detach { volume: disk.volume.clone(), force }, &[])
    }

    pub fn status(&self) -> Vec<VolumeStatus> {
        match self.control.call(&Request::Status, &[]).unwrap() {
            Reply::Status { volumes } => volumes,
            other => panic!("{other:?}"),
        }
    }

    /// One line of `/proc/<pid>/status`, without its name.
    pub fn proc_status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// Processor time so far, in seconds.
    pub fn cpu_time(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A volume's backing file, key and socket.
pub struct Disk {
    pub folder: PathBuf,
    pub volume: VolumeId,
    pub key: VolumeKey,
    pub size: u64,
    pub direct: bool,
}

impl Disk {
    /// Makes an empty backing file in `folder`.
    pub fn new(folder: &Path, number: u8, size: u64) -> Self {
        let disk = Self {
            folder: folder.to_owned(),
            volume: volume(number),
            key: VolumeKey::generate().unwrap(),
            size,
            direct: false,
        };
        File::create(disk.image()).unwrap().set_len(size).unwrap();
        disk
    }

    pub fn image(&self) -> PathBuf {
        self.folder.join(format!("{}.img", self.volume))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.volume))
    }

    pub fn open(&self) -> File {
        let flags = if self.direct { OFlags::DIRECT.bits().cast_signed() } else { 0 };
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.image()).unwrap()
    }

    pub fn listen(&self) -> OwnedFd {
        let _ = std::fs::remove_file(self.socket());
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&fd, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        listen(&fd, 4).unwrap();
        fd
    }

    pub fn request(&self, sealed_key: Vec<u8>) -> Request {
        Request::Attach(Attach {
            host: host(),
            volume: self.volume.clone(),
            device_name: "/dev/sdf".to_owned(),
            size: self.size,
            sealed_key,
        })
    }
}

/// New guest memory.
pub fn ram() -> Shared {
    Shared::new(GUEST).unwrap()
}

/// Connects as a hypervisor, gives all of guest memory, lets the function use it.
pub fn connect(disk: &Disk, ram: &Shared) -> Result<Function, ClientError> {
    let mut client = Client::connect(&disk.socket())?;
    client.set_timeout(Some(Duration::from_secs(20)));
    Function::share(client, ram)
}

/// Function level reset, as a driver asks for it: in the device control register.
pub fn function_level_reset(function: &mut Function) -> Result<(), ClientError> {
    let mut control = [0; 2];
    function.0.read(CONFIG, 0x48, &mut control)?;
    function.0.write(CONFIG, 0x48, &[control[0], control[1] | 0x80])?;
    function.enable()
}

pub type Guest = FunctionDriver;

/// Starts the driver on half of guest memory; the other half is the caller's.
pub fn drive(function: Function, ram: Shared, options: &Options) -> Guest {
    Driver::start(function, ram, 0..GUEST / 2, options).unwrap()
}

/// Connects and starts the driver.
pub fn boot(disk: &Disk, options: &Options) -> Guest {
    let ram = ram();
    drive(connect(disk, &ram).unwrap(), ram, options)
}
