//! The whole process, as its controller sees it.

use crate::{
    image::{bz_image, elf, sealed},
    rig::{device, wait},
};
use ids::InstanceId;
use rustix::process::geteuid;
use seal::console::Tenant;
use sha2::{Digest, Sha256};
use std::{
    cell::RefCell,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    rc::Rc,
};
use wire::{
    Link,
    hypervisor::{Create, Measurement, Reply, Request, State, Statistics},
};

/// A user that owns nothing.
const USER: u32 = 70_001;

pub(crate) struct Hypervisor {
    child: Child,
    pub(crate) link: Link<Request, Reply>,
    tenant: Rc<RefCell<Tenant>>,
}

impl Hypervisor {
    pub(crate) fn start() -> Self {
        Self::start_by(&mut Command::new(env!("CARGO_BIN_EXE_azote-hypervisor"))).unwrap()
    }

    fn start_by(command: &mut Command) -> io::Result<Self> {
        let (link, theirs) = Link::<Request, Reply>::pair().unwrap();
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
        let tenant = Rc::new(RefCell::new(Tenant::new(InstanceId::from_random(1)).unwrap()));
        Ok(Self { child, link, tenant })
    }

    /// Another process for the same tenant, who believes either.
    pub(crate) fn another(&self) -> Self {
        let mut other = Self::start();
        other.tenant = Rc::clone(&self.tenant);
        other
    }

    pub(crate) fn parameters(&self) -> Create {
        Create {
            instance: InstanceId::from_random(1),
            instance_type: "t3.nano".to_owned(),
            cpus: 2,
            threads_per_core: 2,
            pins: vec![0, 0],
            memory_mib: 64,
            command_line: "quiet".to_owned(),
            console_key: Some(self.tenant.borrow().public_key().to_vec()),
            passthrough: false,
            instructions: wire::hypervisor::Instructions::All,
            reserved: false,
        }
    }

    pub(crate) fn create(&self, kvm: &OwnedFd, create: Create, kernel: &[u8]) -> Result<Measurement, String> {
        let kernel = sealed(kernel);
        let request = Request::Create(Box::new(create));
        match self.link.call(&request, &[kvm.as_fd(), kernel.as_fd()]).unwrap() {
            Reply::Created(measurement) => Ok(measurement),
            Reply::Fault(fault) => Err(fault.code),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<(), String> {
        match self.link.call(request, &[]).unwrap() {
            Reply::Done => Ok(()),
            Reply::Fault(fault) => Err(fault.code),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn statistics(&self) -> Statistics {
        match self.link.call(&Request::Statistics, &[]).unwrap() {
            Reply::Statistics(statistics) => *statistics,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn console(&mut self) -> Vec<u8> {
        match self.link.call(&Request::ConsoleRead { after: 0 }, &[]).unwrap() {
            Reply::Console { sealed, .. } if sealed.is_empty() => Vec::new(),
            Reply::Console { next, sealed } => {
                assert!(!sealed.windows(5).any(|window| window == b"hello"), "the console leaves in plain");
                {
                    let mut tenant = self.tenant.borrow_mut();
                    tenant.trust(None);
                    tenant.open(next, &sealed).unwrap().bytes
                }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stop(mut self) {
        self.ask(&Request::Stop).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `text` to the serial port and then does `rest`; as 32-bit or 64-bit code.
pub(crate) fn say(text: &[u8], rest: &[u8]) -> Vec<u8> {
    // mov dx, 0x3F8; then for each byte: mov al, byte; out dx, al
    let mut code = vec![0x66, 0xBA, 0xF8, 0x03];
    text.iter().for_each(|byte| code.extend([0xB0, *byte, 0xEE]));
    code.extend(rest);
    code
}

/// `jmp` to itself.
pub(crate) const SPIN: [u8; 2] = [0xEB, 0xFE];

#[test]
fn a_machine_runs_stands_still_and_ends_as_it_is_told() {
    let Some(kvm) = device() else { return };
    let mut hypervisor = Hypervisor::start();
    let parameters = hypervisor.parameters();
    assert_eq!(hypervisor.ask(&Request::Resume), Err("instance.none".to_owned()));
    let kernel = elf(&say(b"hello", &SPIN));
    let measured = hypervisor.create(&kvm, parameters.clone(), &kernel).unwrap();
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = Measurement { kernel: hex(&kernel), initrd: None, command_line: hex(b"quiet") };
    assert_eq!(measured, expected);
    assert_eq!(hypervisor.create(&kvm, parameters, &kernel), Err("instance.already".to_owned()));
    assert_eq!(hypervisor.statistics().state, State::Paused);
    assert!(hypervisor.console().is_empty());
    hypervisor.ask(&Request::Resume).unwrap();
    wait("five bytes", || hypervisor.statistics().cpus[0].port_out == 5);
    assert_eq!(hypervisor.console(), b"hello");
    assert_eq!(hypervisor.statistics().state, State::Running);
    let time = || hypervisor.statistics().cpus[0].cpu_ns.unwrap();
    let begin = time();
    wait("the guest to use its processor", || time() > begin + 1_000_000);
    hypervisor.ask(&Request::Pause).unwrap();
    let numbers = hypervisor.statistics();
    assert_eq!((numbers.state, numbers.failed), (State::Paused, None));
    assert_eq!(hypervisor.statistics().cpus, numbers.cpus);
    hypervisor.ask(&Request::Resume).unwrap();
    hypervisor.stop();
}

/// As the launcher starts it: a user that owns nothing, without groups and capabilities.
#[test]
fn it_needs_no_rights_of_its_own() {
    let Some(kvm) = device() else { return };
    if !geteuid().is_root() {
        println!("skipped: it_needs_no_rights_of_its_own: only root can become another user");
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_azote-hypervisor"));
    let mut hypervisor = match Hypervisor::start_by(command.uid(USER).gid(USER)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("skipped: it_needs_no_rights_of_its_own: others cannot reach the program");
            return;
        }
        started => started.unwrap(),
    };
    hypervisor.create(&kvm, hypervisor.parameters(), &elf(&say(b"hello", &SPIN))).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", hypervisor.child.id())).unwrap();
    let said = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(
        (said("CapPrm:"), said("CapEff:"), said("Groups:")),
        ("0000000000000000", "0000000000000000", "")
    );
    assert!(said("Uid:").split_whitespace().all(|user| user.parse() == Ok(USER)));
    hypervisor.ask(&Request::Resume).unwrap();
    wait("five bytes", || hypervisor.statistics().cpus[0].port_out == 5);
    assert!(hypervisor.statistics().cpus[0].cpu_ns.is_some());
    assert_eq!(hypervisor.console(), b"hello");
    hypervisor.stop();
}

#[test]
fn a_guest_that_resets_itself_is_not_started_again() {
    let Some(kvm) = device() else { return };
    let hypervisor = Hypervisor::start();
    // The 64-bit entry, then ud2 without a descriptor table.
    let kernel = bz_image(&say(b"x", &[0x0F, 0x0B]));
    hypervisor.create(&kvm, hypervisor.parameters(), &kernel).unwrap();
    hypervisor.ask(&Request::Resume).unwrap();
    wait("the reset", || hypervisor.statistics().state == State::Reset);
    assert_eq!(hypervisor.ask(&Request::Resume), Err("instance.ended".to_owned()));
    hypervisor.stop();
}

/// No hardware is here: what comes instead of it is refused, by the kernel where the machine may have some.
#[test]
fn hardware_comes_only_where_it_was_announced() {
    let Some(kvm) = device() else { return };
    for (passthrough, wanted) in [(false, "instance.no-passthrough"), (true, "function.refused")] {
        let hypervisor = Hypervisor::start();
        let create = Create { passthrough, ..hypervisor.parameters() };
        hypervisor.create(&kvm, create, &elf(&SPIN)).unwrap();
        let file = sealed(b"no function");
        let give = |slot, fds: &[BorrowedFd<'_>]| match hypervisor
            .link
            .call(&Request::Passthrough { slot }, fds)
            .unwrap()
        {
            Reply::Fault(fault) => fault.code,
            other => format!("{other:?}"),
        };
        assert_eq!(give(1, &[file.as_fd()]), "request.descriptors");
        assert_eq!(give(1, &[file.as_fd(), file.as_fd()]), wanted);
        assert_eq!(hypervisor.statistics().slots, []);
        hypervisor.stop();
    }
}

#[test]
fn nonsense_is_refused_by_code() {
    let Some(kvm) = device() else { return };
    let hypervisor = Hypervisor::start();
    let kernel = elf(&SPIN);
    type Change = fn(&mut Create);
    let wrong: [(&str, Change); 7] = [
        ("instance.parameters", |create| create.cpus = 3),
        ("instance.parameters", |create| create.pins = vec![0]),
        ("instance.parameters", |create| create.instance_type = "\n".to_owned()),
        ("instance.memory", |create| create.memory_mib = 0),
        ("instance.memory", |create| create.memory_mib = u64::MAX),
        ("boot.command-line", |create| create.command_line = "x".repeat(5000)),
        ("instance.system", |create| create.pins = vec![1000, 1000]),
    ];
    for (code, change) in wrong {
        let mut create = hypervisor.parameters();
        change(&mut create);
        assert_eq!(hypervisor.create(&kvm, create, &kernel), Err(code.to_owned()));
    }
    let cut = |len: usize| hypervisor.create(&kvm, hypervisor.parameters(), &kernel[..len]);
    assert_eq!(cut(60), Err("boot.format".to_owned()));
    assert_eq!(cut(kernel.len() - 1), Err("boot.format".to_owned()));
    let far = |at: usize| {
        let mut kernel = kernel.clone();
        kernel[at + 4] = 1;
        hypervisor.create(&kvm, hypervisor.parameters(), &kernel)
    };
    assert_eq!(far(64 + 24), Err("boot.format".to_owned()), "an entry outside of what is loaded");
    assert_eq!(far(64 + 40), Err("boot.memory".to_owned()), "more memory than there is");
    hypervisor.create(&kvm, hypervisor.parameters(), &kernel).unwrap();
    hypervisor.stop();
}
