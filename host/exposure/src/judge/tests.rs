use super::*;
use crate::{
    facts::Connection,
    parse::{Capabilities, ListenerKind},
};
use std::{collections::BTreeMap, path::PathBuf};

const ROOM: &str = r#"
[process]
name = "room"

[[listen]]
at = "{installation}/run/room"
why = "the test"

[[listen]]
at = "127.0.0.1:*"
why = "the test"

[[hold]]
path = "{installation}/state/*"
access = "write"
why = "the test"

[[hold]]
path = "/etc/hosts"
access = "read"
why = "the test"

[[syscall]]
names = ["read"]
why = "the test"
"#;
const STAND_INS: &str = "[[stand_in]]\nname = \"board\"\nwhy = \"the test\"\n";

fn expected() -> Expectations {
    Expectations::parse([ROOM], STAND_INS).unwrap()
}

fn thread() -> Status {
    let filters = u32::try_from(expected().of("room").unwrap().filters).unwrap();
    let capabilities = Capabilities { bounding: !0, ..Capabilities::default() };
    Status { users: [7; 4], tracer: 0, capabilities, no_new_privs: true, seccomp: 2, filters: filters + 1 }
}

fn listener(kind: ListenerKind, address: &str) -> Listener {
    Listener { kind, address: address.to_owned(), user: Some(7), inode: 1 }
}

fn open(target: &str, writable: bool) -> Open {
    Open { target: target.to_owned(), readable: true, writable }
}

/// A room as it should be.
fn room() -> Process {
    let mapping = |file: &str| Mapping { file: file.to_owned(), writable: false, length: 4096 };
    Process {
        pid: 9,
        parent: 1,
        name: "room".to_owned(),
        program: Known::Read(PathBuf::from("/opt/room")),
        threads: Known::Read(vec![thread()]),
        terminal: 0,
        dumpable: Known::Read(false),
        executable: Known::Read(["/opt/room", "[vdso]", "[vsyscall]"].map(mapping).to_vec()),
        files: Known::Read(vec![open("/dev/null", true), open("/i/state/x", true), open("socket:[1]", true)]),
        listeners: Known::Read(vec![
            listener(ListenerKind::Unix, "/i/run/room"),
            listener(ListenerKind::Tcp, "127.0.0.1:80"),
        ]),
        connections: Known::Read(vec![Connection { port: 80, peer: "127.0.0.1:9".parse().unwrap() }]),
        namespaces: Known::Read(BTreeMap::new()),
    }
}

fn survey(processes: Vec<Process>) -> Survey {
    Survey {
        installation: PathBuf::from("/i"),
        reader: 7,
        inherited_filters: 1,
        ptrace_scope: None,
        setuid: Known::Read(vec![PathBuf::from("/bin/su")]),
        shells: vec![PathBuf::from("/bin/sh")],
        processes,
        ownerless: Known::Read(Vec::new()),
    }
}

fn codes(survey: &Survey) -> Vec<&'static str> {
    judge(survey, &expected(), Allowances::default()).iter().map(|finding| finding.code).collect()
}

#[track_caller]
fn finds(change: impl Fn(&mut Process), expected: &[&str]) {
    let mut process = room();
    change(&mut process);
    assert_eq!(codes(&survey(vec![process])), expected);
}

fn with_thread(change: impl Fn(&mut Status)) -> impl Fn(&mut Process) {
    move |process| {
        let mut other = thread();
        change(&mut other);
        process.threads = Known::Read(vec![thread(), other]);
    }
}

#[test]
fn a_room_that_shows_what_is_named_is_well() {
    finds(|_| (), &[]);
}

#[test]
fn each_kind_of_exposure_is_found() {
    finds(|it| it.name = "other".to_owned(), &["exposure.unknown-process"]);
    finds(|it| it.terminal = 34816, &["exposure.terminal"]);
    let gone = || Known::Read(PathBuf::from("/opt/room (deleted)"));
    let code = || Known::Read(Vec::new());
    finds(|it| (it.program, it.executable) = (gone(), code()), &["exposure.program"]);
    finds(|it| it.dumpable = Known::Read(true), &["exposure.dumpable"]);
    for address in ["0.0.0.0:80", "[::]:80"] {
        let elsewhere = || {
            Known::Read(vec![
                listener(ListenerKind::Tcp, address),
                listener(ListenerKind::Tcp, "127.0.0.1:80"),
            ])
        };
        finds(|it| it.listeners = elsewhere(), &["exposure.listener"]);
    }
    for kind in [ListenerKind::Udp, ListenerKind::Raw, ListenerKind::Packet] {
        let odd =
            || Known::Read(vec![listener(kind, "127.0.0.1:80"), listener(ListenerKind::Tcp, "127.0.0.1:80")]);
        finds(|it| it.listeners = odd(), &["exposure.listener"]);
    }
    let outward = || Known::Read(vec![Connection { port: 81, peer: "10.0.0.1:443".parse().unwrap() }]);
    finds(|it| it.connections = outward(), &["exposure.connection"]);
    for (target, writable, code) in [
        ("/etc/passwd", false, "exposure.file"),
        ("/etc/hosts", true, "exposure.file"),
        ("/i/elsewhere/x", true, "exposure.file"),
    ] {
        finds(|it| it.files = Known::Read(vec![open(target, writable)]), &[code]);
    }
    finds(|it| it.files = Known::Read(vec![open("/etc/hosts", false)]), &[]);
    finds(
        |it| it.files = Known::Read(vec![open("/dev/pts/3", true)]),
        &["exposure.terminal", "exposure.file"],
    );
}

#[test]
fn every_thread_counts() {
    finds(with_thread(|it| it.tracer = 5), &["exposure.traced"]);
    finds(with_thread(|it| it.users[1] = 0), &["exposure.identity"]);
    finds(with_thread(|it| it.capabilities.effective = 1), &["exposure.capability"]);
    finds(with_thread(|it| it.capabilities.permitted = 1), &["exposure.capability"]);
    finds(with_thread(|it| it.capabilities.inheritable = 1), &["exposure.capability"]);
    finds(with_thread(|it| it.capabilities.ambient = 1), &["exposure.capability"]);
    finds(with_thread(|it| it.no_new_privs = false), &["exposure.capability", "exposure.no-new-privs"]);
    // One less than the sandbox file compiles to: only what was inherited and a part of its own.
    finds(with_thread(|it| it.filters -= 1), &["exposure.filter", "exposure.shell"]);
    let unconfined = |it: &mut Status| (it.seccomp, it.filters, it.no_new_privs) = (0, 0, false);
    finds(
        with_thread(unconfined),
        &[
            "exposure.filter",
            "exposure.capability",
            "exposure.no-new-privs",
            "exposure.shell",
            "exposure.setuid",
        ],
    );
}

#[test]
fn executable_memory_is_the_programs_and_nothing_elses() {
    for (file, writable, code) in [
        ("", false, "exposure.executable-memory"),
        ("[heap]", false, "exposure.executable-memory"),
        ("", true, "exposure.writable-executable"),
        ("/opt/room", true, "exposure.writable-executable"),
        ("/opt/other", false, "exposure.mapping"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", false, "exposure.mapping"),
        ("[vdso]", true, "exposure.writable-executable"),
        ("/memfd:x (deleted)", false, "exposure.mapping"),
        ("/opt/room (deleted)", false, "exposure.mapping"),
    ] {
        let mapping = || Known::Read(vec![Mapping { file: file.to_owned(), writable, length: 4096 }]);
        finds(|it| it.executable = mapping(), &[code]);
    }
}

#[test]
fn what_could_not_be_read_fails_unless_allowed() {
    let unread = || Known::Unread("denied".to_owned());
    let mut dark = room();
    dark.program = Known::Unread("denied".to_owned());
    dark.executable = Known::Unread("denied".to_owned());
    dark.files = Known::Unread("denied".to_owned());
    dark.listeners = Known::Unread("denied".to_owned());
    dark.connections = Known::Unread("denied".to_owned());
    dark.threads = Known::Unread("denied".to_owned());
    dark.dumpable = Known::Unread("denied".to_owned());
    let found = judge(&survey(vec![dark.clone()]), &expected(), Allowances::default());
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(found.iter().all(|finding| finding.code == "exposure.unreadable" && finding.fails));
    let allowed = Allowances { unread: true };
    assert!(judge(&survey(vec![dark.clone()]), &expected(), allowed).iter().all(|finding| !finding.fails));
    let mut blind = survey(vec![dark]);
    blind.ownerless = unread();
    assert_eq!(judge(&blind, &expected(), Allowances::default()).len(), 7);
}

#[test]
fn a_socket_without_a_visible_owner_must_be_somebodys() {
    let mut dark = room();
    dark.files = Known::Unread("denied".to_owned());
    let mut survey = survey(vec![dark]);
    let mut found = |listeners: Vec<Listener>| {
        survey.ownerless = Known::Read(listeners);
        codes(&survey).into_iter().filter(|code| *code == "exposure.listener").count()
    };
    assert_eq!(found(vec![listener(ListenerKind::Unix, "/i/run/room")]), 0);
    assert_eq!(found(vec![listener(ListenerKind::Tcp, "127.0.0.1:5")]), 0);
    assert_eq!(found(vec![listener(ListenerKind::Unix, "/i/run/other")]), 1);
    assert_eq!(found(vec![listener(ListenerKind::Tcp, "0.0.0.0:22")]), 1);
    assert_eq!(found(vec![listener(ListenerKind::Udp, "127.0.0.1:5")]), 1);
    let others = Listener { user: Some(8), ..listener(ListenerKind::Tcp, "0.0.0.0:22") };
    assert_eq!(found(vec![others]), 0, "another user's");
}

#[test]
fn stand_ins_are_not_rooms_and_still_reach_nobody() {
    let mut board = Process { name: "board".to_owned(), ..room() };
    board.listeners = Known::Read(Vec::new());
    board.connections = Known::Read(Vec::new());
    board.dumpable = Known::Read(true);
    board.files = Known::Read(vec![open("/anything", true)]);
    let unconfined = Status { seccomp: 0, filters: 0, no_new_privs: false, ..thread() };
    board.threads = Known::Read(vec![unconfined]);
    assert_eq!(codes(&survey(vec![board.clone()])), [] as [&str; 0]);
    board.connections = room().connections;
    board.terminal = 1;
    board.listeners = Known::Read(vec![listener(ListenerKind::Unix, "/i/run/room")]);
    let found = codes(&survey(vec![board]));
    assert_eq!(found, ["exposure.terminal", "exposure.listener", "exposure.connection"]);
}
