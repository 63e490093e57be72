//! A launcher's real process with the real hypervisor, and the controller's ends of all sockets.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "not every user of the rig needs all of it"
)]

use guest::{IMAGE, rig::sealed, scenario};
use ids::InstanceId;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command},
    sync::Once,
    time::{Duration, Instant},
};
use wire::{
    Link, LinkError,
    hypervisor::{self, Create, State},
    launcher::{Ended, Reply, Request},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-launcher");

pub fn instance(number: u128) -> InstanceId {
    InstanceId::from_random(number)
}

/// A program in memory that nobody changes any more.
pub fn image(name: &str, path: &Path) -> OwnedFd {
    let mut memory = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    io::copy(&mut File::open(path).unwrap(), &mut memory).unwrap();
    memory.flush().unwrap();
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
        .unwrap();
    memory.into()
}

/// The hypervisor as it is now. It is another package's program, built with the features that it has in a build of
/// everything, so that such a build serves here.
pub fn hypervisor_image() -> OwnedFd {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let arguments =
            ["build", "--quiet", "--workspace", "--bin", "azote-hypervisor", "--profile", profile];
        assert!(Command::new(env!("CARGO")).args(arguments).status().unwrap().success());
    });
    image("azote-hypervisor", &Path::new(PROGRAM).with_file_name("azote-hypervisor"))
}

pub struct Launcher {
    pub child: Child,
    pub link: Link<Request, Reply>,
}

impl Launcher {
    pub fn start(image: &impl AsFd) -> Self {
        let program = self::image("azote-launcher", Path::new(PROGRAM));
        let (child, control) = launcher::start(program.as_fd(), image.as_fd()).unwrap();
        Self { child, link: Link::new(control) }
    }

    /// The same, otherwise than the controller does it.
    pub fn start_with(image: OwnedFd, otherwise: impl FnOnce(&mut Command)) -> Self {
        let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
        let program = self::image("azote-launcher", Path::new(PROGRAM));
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0("azote-launcher").current_dir("/").stdin(OwnedFd::from(theirs)).stdout(image);
        otherwise(&mut command);
        Self { child: command.spawn().unwrap(), link: ours }
    }

    /// The fault's code, or the reply.
    pub fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, String> {
        match self.link.call(request, fds) {
            Ok(Reply::Fault(fault)) => Err(fault.code),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn hypervisor(&self, number: u128) -> Result<Hypervisor, String> {
        let (ours, theirs) = Link::pair().unwrap();
        let reply = self.call(&Request::Start { instance: instance(number) }, &[theirs.as_fd()])?;
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        Ok(Hypervisor(ours))
    }

    pub fn end(&self, number: u128) -> Result<Ended, String> {
        match self.call(&Request::End { instance: instance(number) }, &[])? {
            Reply::Ended(ended) => Ok(ended),
            other => panic!("{other:?}"),
        }
    }

    pub fn ended(&self) -> Result<Vec<Ended>, String> {
        match self.call(&Request::Ended, &[])? {
            Reply::AllEnded { ended } => Ok(ended),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until somebody has ended.
    pub fn next_end(&self) -> Result<Vec<Ended>, String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.ended()? {
                none if none.is_empty() && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                some => return Ok(some),
            }
        }
    }

    /// The half that is inside, and the hypervisors: as the system outside numbers them.
    pub fn inside(&self) -> u32 {
        children(self.child.id())[0]
    }

    pub fn hypervisors(&self) -> Vec<u32> {
        children(self.inside())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a machine is made of: `/dev/kvm` and a kernel.
pub struct Parts {
    kvm: File,
    kernel: OwnedFd,
}

impl Parts {
    /// None, and it says so, where there is no KVM.
    pub fn find(test: &str) -> Option<Self> {
        if let Some(why) = scenario::missing() {
            println!("skipped: {test}: {why}");
            return None;
        }
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        Some(Self { kvm, kernel: sealed("guest", IMAGE).unwrap() })
    }
}

/// The controller's end of a hypervisor's socket.
pub struct Hypervisor(pub Link<hypervisor::Request, hypervisor::Reply>);

impl Hypervisor {
    pub fn isolation(&self) -> Result<hypervisor::Isolation, String> {
        match self.0.call(&hypervisor::Request::Isolation, &[]) {
            Ok(hypervisor::Reply::Isolation(isolation)) => Ok(isolation),
            Err(LinkError::Closed) => Err("gone".to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Builds a machine.
    pub fn create(&self, number: u128, parts: &Parts) {
        let create = Create {
            instance: instance(number),
            instance_type: "azote.test".to_owned(),
            cpus: 2,
            threads_per_core: 1,
            pins: Vec::new(),
            memory_mib: 64,
            command_line: "only=memory".to_owned(),
            console_key: None,
            passthrough: false,
            instructions: hypervisor::Instructions::All,
            reserved: false,
        };
        let create = hypervisor::Request::Create(Box::new(create));
        let reply = self.0.call(&create, &[parts.kvm.as_fd(), parts.kernel.as_fd()]).unwrap();
        assert!(matches!(reply, hypervisor::Reply::Created(_)), "{reply:?}");
    }

    /// Runs the machine until its guest turns it off.
    pub fn run(&self) {
        let resumed = self.0.call(&hypervisor::Request::Resume, &[]).unwrap();
        assert!(matches!(resumed, hypervisor::Reply::Done), "{resumed:?}");
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let reply = self.0.call(&hypervisor::Request::Statistics, &[]).unwrap();
            let hypervisor::Reply::Statistics(statistics) = reply else { panic!("{reply:?}") };
            match statistics.state {
                State::Off => return,
                State::Running if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn stop(self) {
        let stopped = self.0.call(&hypervisor::Request::Stop, &[]).unwrap();
        assert!(matches!(stopped, hypervisor::Reply::Done), "{stopped:?}");
    }
}

pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// One line of `/proc/<pid>/status`, without its name.
pub fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}
