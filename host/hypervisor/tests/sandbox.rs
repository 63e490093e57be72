//! The sandbox file of the hypervisor: what it forbids ends the process, and nothing in it is unneeded. This program is
//! also the hypervisor and the card that it tests, under the name by which it is called: the hypervisor's sandbox
//! file is then beside it.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use guest::{
    IMAGE,
    report::Verdict,
    rig::{Size, sealed},
    scenario::{self, Programs},
};
use guest_memory::Sealing;
use hypervisor::{
    confinement::{SANDBOX, serve},
    state::VERSION,
    vm,
};
use ids::InstanceId;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox::{Policy, Syscall, Violation};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Barrier},
    time::Duration,
};
use tempfile::TempDir;
use toml::{Table, Value};
use volume_card::Card;
use wire::{
    Link,
    hypervisor::{Create, Parcel, Reply, Request},
};

const LIMIT: Duration = Duration::from_secs(60);
/// How many different calls are made until the processors run, and from then on. They may become fewer.
const EARLY: usize = 30;
const RUNNING: usize = 15;

// What is kept for the host's hardware is used where there is some: `cargo xtask guest passthrough`.

/// The reasons of what is needed only with cards that share memory of their own or have doorbells that are eventfds,
/// as the volume card does not, and when the heap grows.
const OTHER_CARDS: [&str; 3] = [
    "KVM_IOEVENTFD: doorbells of functions",
    "memory that a card shares, and our own: never executable",
    "KVM_SET_USER_MEMORY_REGION: memory that a card shares",
];

/// A folder of programs that are all this one, with the hypervisor's sandbox file.
fn programs(policy: &str) -> (TempDir, Programs) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["azote-hypervisor", "azote-volume-card"] {
        symlink(std::env::current_exe().unwrap(), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("policy.toml"), policy).unwrap();
    let programs = Programs(folder.path().to_owned());
    (folder, programs)
}

fn said<T>(result: Result<T, impl ToString>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// A hypervisor and its controller's end of the socket.
struct Process {
    link: Link<Request, Reply>,
    child: Child,
}

impl Process {
    fn start(programs: &Programs) -> Result<Self, String> {
        let (link, theirs) = said(Link::<Request, Reply>::pair())?;
        let mut command = Command::new(programs.hypervisor());
        let child = said(command.stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null()).spawn())?;
        Ok(Self { link, child })
    }

    fn done(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        match said(self.link.call(request, fds))? {
            Reply::Done => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn refused(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        match said(self.link.call(request, fds))? {
            Reply::Fault(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Four mebibytes of what is no state.
    fn refuse_state(&self, kvm: BorrowedFd<'_>) -> Result<(), String> {
        let (out, into) =
            said(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None))?;
        said(self.link.send(&Request::StateIn, &[kvm, into.as_fd()]))?;
        drop(into);
        let (out, bytes) = (Link::<Parcel, Parcel>::new(out), vec![0xFF; 32 << 10]);
        let state = 128 * bytes.len() as u64;
        said(out.send(&Parcel::Header { version: VERSION, state, functions: 0, copy: false }, &[kvm]))?;
        (0..128).try_for_each(|_| said(out.send(&Parcel::State { bytes: bytes.clone() }, &[])))?;
        match said(self.link.receive())?.0 {
            Reply::Fault(fault) if fault.code == "state.malformed" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        self.done(&Request::Stop, &[])?;
        let status = said(self.child.wait())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine that is first asked for wrongly, then built with its processors pinned, copied into another process, run,
/// asked wrongly and stopped.
fn short(programs: &Programs) -> Result<(), String> {
    let (mut first, mut second) = (Process::start(programs)?, Process::start(programs)?);
    let (kvm, kernel) =
        (File::options().read(true).write(true).open("/dev/kvm"), said(sealed("guest", IMAGE))?);
    let (kvm, fds) = (said(kvm)?, |kvm| [kvm, kernel.as_fd()]);
    let create = |pin| {
        Request::Create(Box::new(Create {
            instance: InstanceId::from_random(1),
            instance_type: "azote.test".to_owned(),
            cpus: 2,
            threads_per_core: 1,
            pins: vec![pin, pin],
            memory_mib: 64,
            command_line: "only=memory".to_owned(),
            console_key: None,
            passthrough: false,
            instructions: wire::hypervisor::Instructions::All,
            reserved: false,
        }))
    };
    first.refused(&create(9999), &fds(kvm.as_fd()))?;
    second.refuse_state(kvm.as_fd())?;
    let Reply::Created(_) = said(first.link.call(&create(0), &fds(kvm.as_fd())))? else {
        return Err("not created".into());
    };
    let Reply::Isolation(found) = said(first.link.call(&Request::Isolation, &[]))? else {
        return Err("not told".into());
    };
    assert_eq!(found, hypervisor::isolation::detect(), "told as it is");
    {
        let (out, into) =
            said(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None))?;
        said(second.link.send(&Request::StateIn, &[kvm.as_fd(), into.as_fd()]))?;
        drop(into);
        first.done(&Request::StateOut { copy: true }, &[out.as_fd()])?;
    }
    let Reply::Done = said(second.link.receive())?.0 else { return Err("not taken over".into()) };
    for process in [&mut first, &mut second] {
        process.done(&Request::Resume, &[])?;
        process.refused(&Request::Attach { slot: 1 }, &[])?;
        process.stop()?;
    }
    Ok(())
}

/// The self-checking guest with a card: everything that a machine does while it runs.
fn whole(programs: &Programs) -> Result<(), String> {
    let run = scenario::run(programs, &Size { cpus: 2, memory_mib: 128 }, "", true, LIMIT);
    let run = said(run)?;
    let bad: Vec<_> = run.checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
    if run.ended && bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
}

fn everything(policy: &str) -> Result<(), String> {
    let (_folder, programs) = programs(policy);
    short(&programs).and_then(|()| whole(&programs))
}

fn the_file_lets_a_machine_do_all_that_it_does() {
    everything(SANDBOX).unwrap();
}

/// The file in which one name of one rule is left out, or given up early, and what it was.
fn without(rule: usize, name: usize, early: bool) -> (String, String) {
    let mut file: Table = SANDBOX.parse().unwrap();
    let rules = file.get_mut("syscall").and_then(Value::as_array_mut).unwrap();
    let mut alone = rules[rule].as_table().unwrap().clone();
    let names = rules[rule].get_mut("names").and_then(Value::as_array_mut).unwrap();
    let name = names.remove(name);
    let what = format!("{name} {}", alone.get("args").unwrap_or(&Value::Boolean(true)));
    rules.retain(|rule| !rule["names"].as_array().unwrap().is_empty());
    if early {
        alone.insert("names".to_owned(), Value::Array(vec![name]));
        alone.insert("early".to_owned(), Value::Boolean(true));
        rules.push(Value::Table(alone));
    }
    (what, toml::to_string(&file).unwrap())
}

/// Tries the file without each name of each rule that is `meant`; all tries must fail.
fn all_are_missed(early: bool, meant: impl Fn(&Syscall) -> bool) {
    let rules = Policy::parse(SANDBOX).unwrap().syscalls;
    let meant = rules.iter().enumerate().filter(|(_, rule)| meant(rule));
    let mut unneeded = Vec::new();
    for (rule, name) in meant.flat_map(|(at, rule)| (0..rule.names.len()).map(move |name| (at, name))) {
        let (what, policy) = without(rule, name, early);
        if everything(&policy).is_ok() {
            unneeded.push(what);
        }
    }
    assert!(unneeded.is_empty(), "{unneeded:#?}");
}

fn no_rule_is_unneeded() {
    // The early rule for all of KVM covers the narrow ones, which the other case tries.
    all_are_missed(false, |rule| rule.kept_for.is_none() && (rule.early || rule.names != ["ioctl"]));
}

fn no_rule_could_be_given_up_early() {
    all_are_missed(true, |rule| {
        let runs = !rule.early && rule.kept_for.is_none();
        runs && rule.fails.is_none() && !OTHER_CARDS.contains(&rule.why.as_str())
    });
}

fn the_calls_are_few() {
    let policy = Policy::parse(SANDBOX).unwrap();
    let count = |early: bool| {
        let rules = policy.syscalls.iter().filter(|rule| !rule.debug);
        let rules = rules.filter(|rule| early || !rule.early && rule.kept_for.is_none());
        let (made, fail): (Vec<_>, Vec<_>) = rules.partition(|rule| rule.fails.is_none());
        [made, fail].map(|rules| rules.iter().flat_map(|rule| &rule.names).collect::<BTreeSet<_>>().len())
    };
    let ([early, early_fail], [running, running_fail]) = (count(true), count(false));
    println!("{early} calls until the processors run, and {early_fail} that fail without being made");
    println!("{running} calls from then on, and {running_fail} that fail");
    assert_eq!((early, running), (EARLY, RUNNING));
}

/// What no hypervisor may do, by the number of the call; all arguments are zero but the first two.
const FORBIDDEN: [(&str, i64, [i64; 2], Violation); 14] = [
    ("open", libc::SYS_open, [0; 2], Violation::Other),
    ("openat", libc::SYS_openat, [0; 2], Violation::Other),
    ("socket", libc::SYS_socket, [libc::AF_UNIX as i64, libc::SOCK_STREAM as i64], Violation::Outbound),
    ("connect", libc::SYS_connect, [0; 2], Violation::Outbound),
    ("sendto", libc::SYS_sendto, [0; 2], Violation::Outbound),
    ("execve", libc::SYS_execve, [0; 2], Violation::Other),
    ("ptrace", libc::SYS_ptrace, [0; 2], Violation::Other),
    ("process_vm_readv", libc::SYS_process_vm_readv, [0; 2], Violation::Other),
    ("mount", libc::SYS_mount, [0; 2], Violation::Other),
    ("bpf", libc::SYS_bpf, [0; 2], Violation::Other),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 2], Violation::Other),
    ("clone", libc::SYS_clone, [libc::SIGCHLD as i64, 0], Violation::Other),
    ("VFIO_IOMMU_MAP_DMA", libc::SYS_ioctl, [0, 0x3b71], Violation::Other),
    ("pwrite64", libc::SYS_pwrite64, [0; 2], Violation::Other),
];
/// What is needed until the machine is built.
const NEEDED_EARLY: [&str; 3] = ["openat", "VFIO_IOMMU_MAP_DMA", "pwrite64"];

/// Makes a forbidden call from another thread than the main one, as a processor's would be.
fn attempt(name: &str, narrowed: bool) {
    let policy = Policy::parse(SANDBOX).unwrap();
    policy.enter(&[]).unwrap();
    let (_, number, [first, second], _) = FORBIDDEN.into_iter().find(|call| call.0 == name).unwrap();
    let (begun, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begins, goes) = (begun.clone(), go.clone());
    let thread = std::thread::spawn(move || {
        begins.wait();
        goes.wait();
        // SAFETY: no address is given but null, and the call is not made.
        unsafe { libc::syscall(number, first, second, 0, 0, 0, 0) };
    });
    begun.wait();
    if narrowed {
        policy.narrow(&[]).unwrap();
    }
    go.wait();
    thread.join().unwrap();
    vm::exit(0);
}

fn what_is_forbidden_ends_the_process_with_a_code() {
    let status = |name: &str, when: &str| -> ExitStatus {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["attempt", name, when]).stderr(Stdio::null()).status().unwrap()
    };
    for (name, _, _, violation) in FORBIDDEN {
        let found = Violation::of(status(name, "narrowed"));
        assert_eq!(found, Some(violation), "{name}");
        assert!(violation.code().starts_with("sandbox."));
        if !NEEDED_EARLY.contains(&name) {
            assert_eq!(Violation::of(status(name, "early")), Some(violation), "{name}, early");
        }
    }
}

fn serve_as(folder: &Path, name: Option<&str>) {
    let input = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    match name {
        Some("azote-volume-card") => Card::new(input, Sealing::Required).unwrap().run().unwrap(),
        Some("azote-hypervisor") => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            let policy = Policy::parse(&fs::read_to_string(folder.join("policy.toml")).unwrap()).unwrap();
            vm::exit(serve(input, policy).is_err().into());
        }
        _ => return,
    }
    std::process::exit(0);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let program = Path::new(&args[0]);
    serve_as(program.parent().unwrap(), program.file_name().and_then(|name| name.to_str()));
    if let [_, attempted, name, when] = args.as_slice()
        && attempted == "attempt"
    {
        return attempt(name, when == "narrowed");
    }
    let wanted =
        |name: &str| !args.iter().skip(1).any(|arg| !arg.starts_with('-') && !name.contains(arg.as_str()));
    let run = |name: &str, case: fn()| {
        if wanted(name) {
            case();
            println!("test {name} ... ok");
        }
    };
    run("the_calls_are_few", the_calls_are_few);
    run("what_is_forbidden_ends_the_process_with_a_code", what_is_forbidden_ends_the_process_with_a_code);
    if let Some(why) = scenario::missing() {
        println!("skipped: the machine under its sandbox: {why}");
        return;
    }
    run("the_file_lets_a_machine_do_all_that_it_does", the_file_lets_a_machine_do_all_that_it_does);
    run("no_rule_is_unneeded", no_rule_is_unneeded);
    run("no_rule_could_be_given_up_early", no_rule_could_be_given_up_early);
}
