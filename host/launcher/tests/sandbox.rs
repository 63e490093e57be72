//! The launcher's sandbox file: what it forbids ends the process or fails, and nothing in it is unneeded. This program
//! is also the launcher that it tests, under the name by which it is called: the sandbox file is then in its folder.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod rig;

use hypervisor::confinement::SANDBOX as HYPERVISOR;
use launcher::{FIRST_USER, SANDBOX, inside, outside};
use rig::{Launcher, hypervisor_image, image, instance};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, Uid, geteuid, kill_process},
    thread::{move_into_link_name_space, set_thread_uid},
};
use sandbox::{Policy, Violation};
use std::{
    fs::{self, File},
    io::{self, Read},
    net::UdpSocket,
    os::{
        fd::{AsFd, IntoRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
};
use toml::{Table, Value};
use wire::{
    Link,
    launcher::{Reply, Request},
};

/// Starts this program as the launcher, in `folder`, where its sandbox file is.
fn start(folder: &Path, image: &OwnedFd) -> Result<Launcher, String> {
    let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .arg0("azote-launcher")
        .current_dir(folder)
        .stdin(OwnedFd::from(theirs))
        .stdout(image.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn();
    Ok(Launcher { child: child.map_err(|error| error.to_string())?, link: ours })
}

/// All that a launcher does, under the sandbox file `text` and a hypervisor's file without what `text` is without.
fn everything(text: &str, missing: Option<&(String, String)>, program: &OwnedFd) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("policy.toml"), text).unwrap();
    if let Some((name, args)) = missing {
        fs::write(folder.path().join("missing"), format!("{name}\n{args}")).unwrap();
    }
    let no_program = start(folder.path(), &image("azote-hypervisor", Path::new("/proc/version")))?;
    if no_program.hypervisor(1).err().as_deref() != Some("launcher.system") {
        return Err("another fault".to_owned());
    }
    let mut launcher = start(folder.path(), program)?;
    let (first, second) = (launcher.hypervisor(1)?, launcher.hypervisor(2)?);
    for hypervisor in [&first, &second] {
        if hypervisor.isolation()? != hypervisor::isolation::detect() {
            return Err("another isolation".to_owned());
        }
    }
    drop(first);
    let ended = launcher.next_end()?;
    if ended.iter().map(|ended| (&ended.instance, ended.code)).ne([(&instance(1), Some(0))]) {
        return Err(format!("{ended:?}"));
    }
    let killed = launcher.end(2)?;
    if (killed.code, killed.signal) != (None, Some(9)) {
        return Err(format!("{killed:?}"));
    }
    launcher.end(3).err().filter(|code| code == "instance.unknown").ok_or("no fault")?;
    drop(std::mem::replace(&mut launcher.link, Link::pair().unwrap().0));
    let status = launcher.child.wait().unwrap();
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn the_file_lets_a_launcher_do_all_that_it_does() {
    everything(SANDBOX, None, &hypervisor_image()).unwrap();
}

/// The reasons of what is needed only on other machines.
const ELSEWHERE: [&str; 2] = [
    "CLONE_VM, CLONE_VFORK and SIGCHLD, where the launcher is not root: the standard library starts a child so that stays the same user",
    "PR_SET_SPECULATION_CTRL: likewise, where the processor has it",
];

fn arguments(rule: &Value) -> String {
    rule.get("args").map(Value::to_string).unwrap_or_default()
}

/// The file in which one rule of a table is left out, or one name of it, and what it was.
fn without(table: &str, rule: usize, name: usize) -> ((String, String), String) {
    let mut file: Table = SANDBOX.parse().unwrap();
    let rules = file.get_mut(table).and_then(Value::as_array_mut).unwrap();
    let args = arguments(&rules[rule]);
    let what = if let Some(names) = rules[rule].get_mut("names").and_then(Value::as_array_mut) {
        let name = names.remove(name).as_str().unwrap().to_owned();
        rules.retain(|rule| !rule["names"].as_array().unwrap().is_empty());
        name
    } else {
        rules.remove(rule).to_string()
    };
    ((what, args), toml::to_string(&file).unwrap())
}

fn no_rule_is_unneeded() {
    let file: Table = SANDBOX.parse().unwrap();
    let image = hypervisor_image();
    let mut unneeded = Vec::new();
    for table in ["file", "capability", "syscall"] {
        for (at, rule) in file[table].as_array().unwrap().iter().enumerate() {
            if ELSEWHERE.contains(&rule["why"].as_str().unwrap()) {
                continue;
            }
            let names = rule.get("names").and_then(Value::as_array).map_or(1, Vec::len);
            for name in 0..names {
                let (what, text) = without(table, at, name);
                if everything(&text, Some(&what), &image).is_ok() {
                    unneeded.push(what);
                }
            }
        }
    }
    assert!(unneeded.is_empty(), "{unneeded:#?}");
}

/// How a try ends: not made, or made and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Killed,
    Refused,
}

/// What a hypervisor may not do even before it has confined itself: each says whether it could.
type Attempt = (&'static str, fn() -> bool, Fate);
const ATTEMPTS: [Attempt; 16] = [
    ("a socket", || UdpSocket::bind("127.0.0.1:0").is_ok(), Fate::Killed),
    ("a connection", || UnixStream::connect("/proc/x").is_ok(), Fate::Killed),
    ("namespaces", || move_into_link_name_space(io::stdin().as_fd(), None).is_ok(), Fate::Killed),
    ("a mount", || unmount("/proc", UnmountFlags::DETACH).is_ok(), Fate::Killed),
    ("the root user", || set_thread_uid(Uid::ROOT).is_ok(), Fate::Killed),
    (
        "a user that is no hypervisor's",
        || set_thread_uid(Uid::from_raw(FIRST_USER + 256)).is_ok(),
        Fate::Killed,
    ),
    ("another hypervisor's user", || set_thread_uid(Uid::from_raw(FIRST_USER + 9)).is_ok(), Fate::Refused),
    ("another signal", || kill_process(Pid::INIT, Signal::TERM).is_ok(), Fate::Killed),
    // Where it is the same user, the first process of a namespace is spared: the next attempts find it alive.
    ("the launcher's end", spared, Fate::Refused),
    ("a file of the host", || File::open("/etc/passwd").is_ok(), Fate::Refused),
    ("a library of the host", || File::open("/lib/x86_64-linux-gnu/libc.so.6").is_ok(), Fate::Refused),
    ("a file made", || File::create("/x").is_ok(), Fate::Refused),
    ("the launcher's memory", || File::open("/proc/1/maps").is_ok(), Fate::Refused),
    ("a shell", || executes("/bin/sh"), Fate::Refused),
    ("a program of its own", || executes(&filled(MemfdFlags::empty())), Fate::Refused),
    ("a program of its own, marked as one", || executes(&filled(MemfdFlags::EXEC)), Fate::Refused),
];

fn spared() -> bool {
    let _ = kill_process(Pid::INIT, Signal::KILL);
    false
}

fn executes(path: &str) -> bool {
    // It comes back only if nothing was executed.
    let error = Command::new(path).exec();
    assert_ne!(error.raw_os_error(), None);
    false
}

/// Memory with a program in it; where it cannot be had, a path that is not there.
fn filled(flags: MemfdFlags) -> String {
    let Ok(memory) = memfd_create("own", flags) else { return "/none".to_owned() };
    let mut page = [0; 4096];
    let length = File::open("/proc/self/exe").unwrap().read(&mut page).unwrap();
    assert_eq!(rustix::io::write(&memory, &page[..length]).unwrap(), page.len());
    format!("/proc/self/fd/{}", memory.into_raw_fd())
}

/// As the image that the launcher starts: tries what it is told to. 0: it could not.
fn attempt() -> i32 {
    let mut name = [0; 64];
    let length = rustix::net::recv(io::stdin(), &mut name, rustix::net::RecvFlags::empty()).unwrap().0;
    let name = std::str::from_utf8(&name[..length]).unwrap();
    let (_, could, _) = ATTEMPTS.into_iter().find(|attempt| attempt.0 == name).unwrap();
    could().into()
}

fn what_is_forbidden_is_not_done() {
    let own = image("azote-hypervisor", &std::env::current_exe().unwrap());
    let launcher = Launcher::start(&own);
    // Who is not root cannot forbid memory to be executed.
    let known = |name: &str| name.starts_with("a program of its own") && !geteuid().is_root();
    for (number, (name, _, fate)) in (0..).zip(ATTEMPTS.into_iter().filter(|attempt| !known(attempt.0))) {
        let hypervisor = launcher.hypervisor(number).unwrap();
        rustix::net::send(&hypervisor.0, name.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
        let ended = launcher.next_end().unwrap();
        let found = match (ended[0].code, Violation::from_end(ended[0].code, ended[0].signal)) {
            (Some(0), _) => Fate::Refused,
            (_, Some(Violation::Other)) => Fate::Killed,
            _ => panic!("{name}: {ended:?}"),
        };
        assert_eq!(found, fate, "{name}");
    }
}

/// The hypervisor's part of the filter, without what is `missing`.
fn policy() -> Policy {
    let mut theirs: Table = HYPERVISOR.parse().unwrap();
    if let Ok(missing) = fs::read_to_string("missing") {
        let (name, args) = missing.split_once('\n').unwrap();
        let rules = theirs.get_mut("syscall").and_then(Value::as_array_mut).unwrap();
        for rule in rules.iter_mut().filter(|rule| args.is_empty() || arguments(rule) == args) {
            let names = rule.get_mut("names").and_then(Value::as_array_mut).unwrap();
            names.retain(|other| other.as_str() != Some(name));
        }
        rules.retain(|rule| !rule["names"].as_array().unwrap().is_empty());
    }
    let theirs = Policy::parse(&toml::to_string(&theirs).unwrap()).unwrap();
    Policy::parse(&fs::read_to_string("policy.toml").unwrap()).unwrap().starting(&theirs)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0] == "azote-hypervisor" {
        std::process::exit(attempt());
    }
    if arguments[0] == "azote-launcher" {
        let ended = if arguments.len() > 1 { inside(&policy()) } else { outside(policy()) };
        std::process::exit(ended.is_err().into());
    }
    let wanted = |name: &str| {
        !arguments.iter().skip(1).any(|arg| !arg.starts_with('-') && !name.contains(arg.as_str()))
    };
    let run = |name: &str, case: fn()| {
        if wanted(name) {
            case();
            println!("test {name} ... ok");
        }
    };
    run("the_file_lets_a_launcher_do_all_that_it_does", the_file_lets_a_launcher_do_all_that_it_does);
    run("what_is_forbidden_is_not_done", what_is_forbidden_is_not_done);
    if !geteuid().is_root() {
        println!("skipped: whether a rule is unneeded: some are needed by root only");
        return;
    }
    run("no_rule_is_unneeded", no_rule_is_unneeded);
}
