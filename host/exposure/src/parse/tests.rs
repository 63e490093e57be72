use super::*;
use proptest::prelude::*;
use std::fs;

#[test]
fn what_this_kernel_says_of_this_process_is_understood() {
    let read = |name: &str| fs::read(format!("/proc/self/{name}")).unwrap();
    let own = status(&read("status")).unwrap();
    assert_eq!(own.users[1], rustix::process::geteuid().as_raw());
    assert_eq!(own.tracer, 0);
    let stat = stat(&read("stat")).unwrap();
    assert_eq!(stat.parent, std::os::unix::process::parent_id());
    assert!(!stat.kernel && stat.started > 0);
    let maps = executable_maps(&read("maps")).unwrap();
    let program = std::env::current_exe().unwrap().display().to_string();
    assert!(maps.iter().any(|map| map.file == program && !map.writable), "{maps:?}");
    let file = tempfile::tempfile().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    assert_eq!(descriptor_flags(&read(&format!("fdinfo/{number}"))), Ok((true, true)));
    assert_eq!(arguments(&read("cmdline")), std::env::args().collect::<Vec<_>>());
}

#[test]
fn names_that_processes_choose_forge_nothing() {
    let line = "7 (a) R 1 (b) S 42 1 1 34816 1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
    let read = stat(line.as_bytes()).unwrap();
    assert_eq!((read.name.as_str(), read.state, read.parent), ("a) R 1 (b", 'S', 42));
    assert_eq!((read.terminal, read.started), (34816, 99));
    let text = String::from_utf8(fs::read("/proc/self/status").unwrap()).unwrap();
    assert!(status(text.as_bytes()).is_ok());
    assert!(status(format!("{text}CapEff:\t0000000000000000\n").as_bytes()).is_err(), "a second one");
    assert!(status(text.replace("NoNewPrivs", "Other").as_bytes()).is_err(), "none");
}

#[test]
fn mappings_are_told_apart() {
    let maps = b"\
00400000-00401000 r-xp 00000000 fe:00 17      /opt/a program\n\
00401000-00402000 rw-p 00000000 00:00 0 \n\
7f0000000000-7f0000002000 rwxp 00000000 00:00 0 \n\
7f0000002000-7f0000003000 r-xs 00000000 00:01 5 /memfd:x (deleted)\n\
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0 [vdso]\n";
    let found = executable_maps(maps).unwrap();
    let told: Vec<_> = found.iter().map(|map| (map.file.as_str(), map.writable, map.length)).collect();
    let expected = [
        ("/opt/a program", false, 4096),
        ("", true, 8192),
        ("/memfd:x (deleted)", false, 4096),
        ("[vdso]", false, 4096),
    ];
    assert_eq!(told, expected);
    for bad in ["x", "0-1 rwxp", "2-1 r-xp 0 0:0 0", "0-1 rwx 0 0:0 0 /x", "0-g r-xp 0 0:0 0"] {
        assert!(executable_maps(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn sockets_are_listeners_or_connections() {
    let tcp = "  sl  local_address rem_address   st\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0\n\
   1: 0100007F:1F90 0100007F:A001 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0\n\
   2: 0100007F:A001 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0\n";
    let found = inet(tcp.as_bytes(), ListenerKind::Tcp).unwrap();
    let listener =
        Listener { kind: ListenerKind::Tcp, address: "127.0.0.1:8080".into(), user: Some(1000), inode: 11 };
    let connected = Socket::Connected { inode: 12, port: 8080, peer: "127.0.0.1:40961".parse().unwrap() };
    assert_eq!(found, [Socket::Listener(listener), connected]);
    let six = "x\n 0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 3 1 0\n";
    assert!(
        matches!(&inet(six.as_bytes(), ListenerKind::Udp).unwrap()[..], [Socket::Listener(it)] if it.address == "[::1]:80")
    );
    let unix = "Num RefCount Protocol Flags Type St Inode Path\n\
0: 00000002 00000000 00010000 0005 01 21 /run/a b\n\
0: 00000002 00000000 00000000 0002 01 22 @hidden\n\
0: 00000002 00000000 00000000 0002 01 23\n\
0: 00000003 00000000 00000000 0001 03 24 /run/a b\n\
0: 00000002 00000000 00010000 0001 01 25\n";
    let found = super::unix(unix.as_bytes()).unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|socket| match socket {
            Socket::Listener(it) => (it.address.as_str(), it.inode),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("/run/a b", 21), ("@hidden", 22), ("", 25)]);
    let packet = "sk RefCnt Type Proto Iface R Rmem User Inode\n0 3 3 0003 2 1 0 0 31\n";
    assert!(
        matches!(&super::packet(packet.as_bytes()).unwrap()[..], [Socket::Listener(it)] if it.inode == 31)
    );
    for bad in ["x\n0: 0100007F 0 0A", "x\n0: 01:1 01:1 0A 0 0 0 0 0 1", "x\nhello"] {
        assert!(inet(bad.as_bytes(), ListenerKind::Tcp).is_err(), "{bad}");
    }
}

#[test]
fn a_table_without_end_is_refused() {
    let row = "0: 0 0 00010000 0001 01 25 x\n";
    let text = format!("head\n{}", row.repeat(MAX_ENTRIES + 1));
    assert_eq!(unix(text.as_bytes()), Err(ParseError::TooLong("a table of Unix sockets")));
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "[0-9a-f:() \\-rwxps/\n\t]{0,300}") {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            all(bytes);
        }
    }
}
