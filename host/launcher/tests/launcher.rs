//! The launcher with real hypervisors, seen by its controller and by the system outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use exposure::{Allowances, Expectations, SANDBOXES, Scope, judge, survey};
use launcher::FIRST_USER;
use rig::{Launcher, Parts, hypervisor_image, image, instance, status};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, Signal, geteuid, kill_process},
};
use sandbox::Violation;
use std::{
    fs,
    io::Read,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use wire::{
    Link,
    launcher::{Ended, MAX_PROCESSES, Request},
};

const NAMESPACES: [&str; 6] = ["pid", "net", "ipc", "uts", "cgroup", "mnt"];

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn namespace(pid: &str, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().into_os_string().into_string().unwrap()
}

/// Waits until none of the processes is there, or nothing of it but its status.
fn all_gone(pids: &[u32]) {
    let end = Instant::now() + Duration::from_secs(10);
    let there = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    while pids.iter().any(there) {
        assert!(Instant::now() < end, "{pids:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// With none of the host's files, and with no rights but `capabilities`: of each process of the launcher's.
fn is_apart(pid: u32, capabilities: &str) {
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(status(pid, "Threads"), "1");
    for (set, found) in [("CapEff", capabilities), ("CapPrm", capabilities)] {
        assert_eq!(u64::from_str_radix(&status(pid, set), 16), u64::from_str_radix(found, 16), "{set}");
    }
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(pid, set), 16), Ok(0), "{set}");
    }
    // Only root looks into processes that are not dumpable.
    if !geteuid().is_root() {
        return;
    }
    for name in NAMESPACES {
        assert_ne!(namespace(&pid.to_string(), name), namespace("self", name), "{name}");
    }
    let root: Vec<_> = fs::read_dir(format!("/proc/{pid}/root/")).unwrap().collect();
    let mut root: Vec<_> =
        root.into_iter().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    root.retain(|name| !["lib", "lib64", "proc", "sys", "usr"].contains(&name.as_str()));
    assert!(root.is_empty(), "{root:?}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).all(|it| it.is_empty() || it.starts_with(b"RUST_LOG=")));
}

#[test]
fn each_hypervisor_is_a_user_without_rights_in_namespaces_without_the_host() {
    let launcher = Launcher::start(&hypervisor_image());
    let first = launcher.hypervisor(1).unwrap();
    let second = launcher.hypervisor(2).unwrap();
    let isolation = first.isolation().unwrap();
    assert_eq!(isolation, second.isolation().unwrap());
    let inside = launcher.inside();
    // SETGID, SETUID, KILL.
    is_apart(inside, "e0");
    let pids = launcher.hypervisors();
    assert_eq!(pids.len(), 2);
    let own = FIRST_USER + u32::try_from(MAX_PROCESSES).unwrap();
    let user = |pid: u32| {
        let users: Vec<u32> = status(pid, "Uid").split_whitespace().map(|it| it.parse().unwrap()).collect();
        assert!(users.iter().all(|user| *user == users[0]));
        let same = status(pid, "Gid").split_whitespace().all(|it| it.parse() == Ok(users[0]));
        assert!(same && status(pid, "Groups").is_empty());
        users[0]
    };
    for pid in &pids {
        is_apart(*pid, "0");
    }
    if !geteuid().is_root() {
        return;
    }
    assert_eq!((user(launcher.child.id()), user(inside)), (own, own));
    for (pid, number) in pids.iter().zip(0..) {
        assert_eq!(user(*pid), FIRST_USER + number);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let most =
            |name: &str| limits.lines().find_map(|it| it.strip_prefix(name)).unwrap().trim().to_owned();
        assert!(most("Max core file size").starts_with("0 "), "{limits}");
        assert!(most("Max open files").starts_with("4096 "), "{limits}");
        // For functions of the host's hardware; who may not lift the limit leaves it as it is.
        let ours = fs::read_to_string("/proc/self/limits").unwrap();
        let locked = |limits: &str| {
            let line = limits.lines().find_map(|it| it.strip_prefix("Max locked memory"));
            line.and_then(|it| it.split_whitespace().nth(1)).unwrap().to_owned()
        };
        assert!(["unlimited".to_owned(), locked(&ours)].contains(&locked(&limits)), "{limits}");
        let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().collect();
        let open = open.into_iter().map(|fd| fs::read_link(fd.unwrap().path()).unwrap());
        let open: Vec<_> = open.map(|to| to.to_string_lossy().into_owned()).collect();
        assert!(!open.iter().any(|to| to.contains("azote-hypervisor")), "the image: {open:?}");
        let sockets = open.iter().filter(|to| to.starts_with("socket:")).count();
        assert_eq!(sockets, 2, "the controller's, as standard input and as the hypervisor's: {open:?}");
    }
}

#[test]
fn others_than_root_have_one_user_for_all_in_a_user_namespace() {
    const NOBODY: u32 = 65534;
    if !geteuid().is_root() {
        println!("skipped: another user than this one: only root can become one");
        return;
    }
    let mut launcher = Launcher::start_with(hypervisor_image(), |command| {
        command.uid(NOBODY).gid(NOBODY).stderr(Stdio::piped());
    });
    let started = [1, 2].map(|number| launcher.hypervisor(number));
    let [Ok(first), Ok(second)] = started else {
        let mut said = String::new();
        launcher.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("namespaces are refused"), "{said}");
        println!("skipped: a user namespace: this system refuses it to users");
        return;
    };
    assert_eq!(first.isolation().unwrap(), second.isolation().unwrap());
    assert_ne!(namespace(&launcher.inside().to_string(), "user"), namespace("self", "user"));
    for pid in launcher.hypervisors() {
        is_apart(pid, "0");
        let uid = status(pid, "Uid");
        assert!(uid.split_whitespace().all(|user| user.parse() == Ok(NOBODY)), "{uid}");
    }
    let killed = Ended { instance: instance(2), code: None, signal: Some(Signal::KILL.as_raw()) };
    assert_eq!(launcher.end(2).unwrap(), killed);
}

/// As the survey of a host sees them.
#[test]
fn they_expose_nothing_that_no_sandbox_file_names() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().canonicalize().unwrap().join("run");
    fs::create_dir(&run).unwrap();
    let log = fs::File::create(run.join("controller.log")).unwrap();
    let launcher = Launcher::start_with(hypervisor_image(), |command| {
        command.stderr(log);
    });
    let hypervisors = [1, 2].map(|number| launcher.hypervisor(number).unwrap());
    hypervisors.iter().for_each(|hypervisor| drop(hypervisor.isolation().unwrap()));
    if let Some(parts) = Parts::find("what a machine exposes") {
        hypervisors[0].create(1, &parts);
    }
    let pid = launcher.child.id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let started = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().to_owned();
    fs::write(run.join("launcher.pid"), format!("{pid} boot {started}")).unwrap();
    let survey = survey(run.parent().unwrap(), Scope::Installation).unwrap();
    let mut names: Vec<_> = survey.processes.iter().map(|process| process.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["azote-hypervisor", "azote-hypervisor", "azote-launcher", "azote-launcher"]);
    let expected = Expectations::parse(SANDBOXES, "").unwrap();
    let findings = judge(&survey, &expected, Allowances { unread: !geteuid().is_root() });
    // Who makes a user namespace has power over all in it.
    let known = |code| code == "exposure.dumpable" && !geteuid().is_root();
    assert!(findings.iter().all(|finding| !finding.fails || known(finding.code)), "{findings:#?}");
}

#[test]
fn machines_run_under_the_launcher() {
    let Some(parts) = Parts::find("machines under the launcher") else { return };
    let launcher = Launcher::start(&hypervisor_image());
    let hypervisors = [1, 2].map(|number| launcher.hypervisor(number).unwrap());
    for (number, hypervisor) in (1..).zip(&hypervisors) {
        hypervisor.create(number, &parts);
    }
    hypervisors.iter().for_each(rig::Hypervisor::run);
    hypervisors.into_iter().for_each(rig::Hypervisor::stop);
    let mut ended = launcher.next_end().unwrap();
    while ended.len() < 2 {
        ended.extend(launcher.next_end().unwrap());
    }
    ended.sort_by_key(|ended| ended.instance.to_string());
    let left = |number| Ended { instance: instance(number), code: Some(0), signal: None };
    assert_eq!(ended, [left(1), left(2)]);
}

#[test]
fn every_end_is_told_once_and_frees_the_place() {
    let launcher = Launcher::start(&hypervisor_image());
    let hypervisors: Vec<_> = (1..=4).map(|number| launcher.hypervisor(number).unwrap()).collect();
    hypervisors.iter().for_each(|hypervisor| drop(hypervisor.isolation().unwrap()));
    assert_eq!(launcher.ended().unwrap(), []);
    assert_eq!(launcher.hypervisor(1).err().as_deref(), Some("instance.exists"));
    let pids = launcher.hypervisors();

    // As at a call that its sandbox traps.
    signal(pids[1], Signal::SYS);
    let ended = launcher.next_end().unwrap();
    assert_eq!(ended.iter().map(|ended| &ended.instance).collect::<Vec<_>>(), [&instance(2)]);
    assert_eq!(Violation::from_end(ended[0].code, ended[0].signal), Some(Violation::Outbound));
    assert_eq!(launcher.ended().unwrap(), []);
    assert_eq!(launcher.end(2).err().as_deref(), Some("instance.unknown"));
    let again = launcher.hypervisor(2).unwrap();
    again.isolation().unwrap();

    let killed = Ended { instance: instance(3), code: None, signal: Some(Signal::KILL.as_raw()) };
    assert_eq!(launcher.end(3).unwrap(), killed);
    assert_eq!(hypervisors[2].isolation().err().as_deref(), Some("gone"));

    // It has ended by itself before it is asked to.
    let mut hypervisors = hypervisors.into_iter();
    hypervisors.next().unwrap().stop();
    all_gone(&pids[..1]);
    assert_eq!(launcher.end(1).unwrap(), Ended { instance: instance(1), code: Some(0), signal: None });
    assert_eq!(launcher.ended().unwrap(), []);
}

#[test]
fn nothing_outlives_the_controllers_end_or_either_half() {
    type End = fn(&mut Launcher);
    let ends: [End; 4] = [
        |launcher| launcher.link = Link::pair().unwrap().0,
        |launcher| signal(launcher.inside(), Signal::KILL),
        |launcher| signal(launcher.child.id(), Signal::KILL),
        |launcher| signal(launcher.child.id(), Signal::TERM),
    ];
    for (index, end) in ends.into_iter().enumerate() {
        let mut launcher = Launcher::start(&hypervisor_image());
        let hypervisors = [1, 2].map(|number| launcher.hypervisor(number).unwrap());
        hypervisors.iter().for_each(|hypervisor| drop(hypervisor.isolation().unwrap()));
        let pids = [launcher.hypervisors(), vec![launcher.inside()]].concat();
        end(&mut launcher);
        let status = launcher.child.wait().unwrap();
        assert_eq!(status.success(), index == 0, "{index}: {status}");
        all_gone(&pids);
        assert_eq!(hypervisors[0].isolation().err().as_deref(), Some("gone"));
    }
}

#[test]
fn what_is_no_proper_request_is_refused() {
    let launcher = Launcher::start(&image("azote-hypervisor", Path::new("/proc/version")));
    let refused = |fds: &[&dyn AsFd]| {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        launcher.call(&Request::Start { instance: instance(1) }, &fds).unwrap_err()
    };
    let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let (one, other) = pair(SocketType::SEQPACKET);
    assert_eq!(refused(&[]), "request.malformed");
    assert_eq!(refused(&[&one, &other]), "request.malformed");
    assert_eq!(refused(&[&pair(SocketType::STREAM).0]), "request.malformed");
    assert_eq!(refused(&[&fs::File::open("/dev/null").unwrap()]), "request.malformed");
    assert_eq!(refused(&[&one]), "launcher.system", "the image is no program");
    assert_eq!(launcher.end(1).err().as_deref(), Some("instance.unknown"));
    rustix::net::send(&launcher.link, b"{\"dance\":1}", rustix::net::SendFlags::empty()).unwrap();
    let (reply, _) = launcher.link.receive().unwrap();
    assert!(matches!(reply, wire::launcher::Reply::Fault(fault) if fault.code == "request.malformed"));
    assert_eq!(launcher.ended().unwrap(), []);
}

#[test]
fn there_are_as_many_as_there_are_users() {
    // They end at once.
    let launcher = Launcher::start(&image("azote-hypervisor", Path::new(rig::PROGRAM)));
    for number in 0..MAX_PROCESSES as u128 {
        launcher.hypervisor(number).unwrap();
    }
    assert_eq!(launcher.hypervisor(1000).err().as_deref(), Some("launcher.full"));
    let mut ended = 0;
    while ended < MAX_PROCESSES {
        let some = launcher.next_end().unwrap();
        assert!(some.iter().all(|ended| ended.code == Some(2)), "{some:?}");
        ended += some.len();
    }
    launcher.hypervisor(1000).unwrap();
}

#[test]
fn started_by_hand_it_says_what_is_wrong() {
    let run = |arguments: &[&str]| {
        Command::new(rig::PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    for arguments in [&[][..], &["--inside"], &["--help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("let the controller start this"));
    }
}
