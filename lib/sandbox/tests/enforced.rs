//! What the sandbox denies is really denied: each case confines a process of its own and lets it try.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use sandbox::Policy;
use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

const SIGSYS: i32 = 31;
/// Exit codes of the confined process.
const ALLOWED: i32 = 40;
const DENIED: i32 = 41;

/// Calls that the probe itself needs: start-up is over, but files are tried, and it must exit.
const POLICY: &str = r#"
[process]
name = "probe"

[[file]]
path = "{folder}/read"
access = "read"
why = "the test"

[[file]]
path = "{folder}/write"
access = "write"
why = "the test"

[[socket]]
kind = "tcp-connect"
ports = [9]
why = "the test"

[[syscall]]
names = ["read", "write", "close", "openat", "exit_group", "brk", "munmap", "sigaltstack", "statx", "fstat",
         "lseek", "socket", "connect", "bind", "listen", "setsockopt", "kill", "getpid", "getppid", "unlink"]
why = "the test"

[[syscall]]
names = ["sendto"]
args = [{ index = 4, op = "eq", value = 0 }]
why = "the test"

[[syscall]]
names = ["symlink"]
fails = "EACCES"
why = "the test"

[[syscall]]
names = ["mmap"]
args = [{ index = 2, op = "masked-eq", mask = 4, value = 0 }]
why = "memory, never executable"

[[syscall]]
names = ["mprotect"]
args = [{ index = 2, op = "masked-eq", mask = 4, value = 0 }]
why = "memory, never executable"
"#;

/// What the confined process tries.
fn attempt(what: &str, folder: &Path) -> bool {
    let port =
        |name: &str| fs::read_to_string(folder.join("read").join(name)).unwrap().parse::<u16>().unwrap();
    match what {
        "read" => fs::read(folder.join("read/file")).is_ok(),
        "write" => fs::write(folder.join("write/file"), "x").is_ok(),
        "remove" => fs::remove_file(folder.join("write/old")).is_ok(),
        "write-to-readable" => fs::write(folder.join("read/file"), "x").is_ok(),
        "read-elsewhere" => File::open("/etc/passwd").is_ok(),
        "own-memory" => File::open("/proc/self/mem").is_ok(),
        "listen" => TcpListener::bind("127.0.0.1:0").is_ok(),
        "connect-elsewhere" => TcpStream::connect(("127.0.0.1", port("port"))).is_ok(),
        "connect-named" => !TcpStream::connect("127.0.0.1:9")
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied),
        "connect-by-sending" => {
            use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
            const MSG_FASTOPEN: u32 = 0x2000_0000;
            let fd = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
            let to: std::net::SocketAddr = ([127, 0, 0, 1], port("port")).into();
            let sent = sendto(&fd, b"out", SendFlags::from_bits_retain(MSG_FASTOPEN), &to).is_ok();
            // Closing asks for more calls, which would be what kills.
            std::mem::forget(fd);
            sent
        }
        "link" => {
            let error = std::os::unix::fs::symlink("x", folder.join("write/link")).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            false
        }
        "signal" => {
            let parent = rustix::process::getppid().unwrap();
            rustix::process::test_kill_process(parent).is_ok()
        }
        "execute" => Command::new("/bin/true").status().is_ok(),
        "watch-process" => {
            use rustix::process::{PidfdFlags, getpid, pidfd_open};
            pidfd_open(getpid(), PidfdFlags::empty()).is_ok()
        }
        "rename" => fs::rename(folder.join("write/old"), folder.join("write/new")).is_ok(),
        "thread" => std::thread::spawn(|| ()).join().is_ok(),
        "executable-memory" => executable_memory(),
        other => panic!("no case {other}"),
    }
}

/// Maps a page executable; the loader does the same, so opening a library would be caught too.
fn executable_memory() -> bool {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let flags = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a fresh private page that nobody uses.
    unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, flags, MapFlags::PRIVATE) }.is_ok()
}

/// The body of the confined process.
fn probe(what: &str, folder: &Path) -> i32 {
    Policy::parse(POLICY).unwrap().enter(&[("folder", folder)]).unwrap();
    if attempt(what, folder) { ALLOWED } else { DENIED }
}

fn confined(what: &str) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    for name in ["read", "write"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("read/file"), "text").unwrap();
    fs::write(folder.path().join("write/old"), "text").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(folder.path().join("read/port"), listener.local_addr().unwrap().port().to_string()).unwrap();
    Command::new(std::env::current_exe().unwrap()).arg("probe").arg(what).arg(folder.path()).status().unwrap()
}

fn what_is_named_works() {
    for what in ["read", "write", "remove", "connect-named"] {
        assert_eq!(confined(what).code(), Some(ALLOWED), "{what}");
    }
}

fn paths_ports_and_signals_that_are_not_named_are_denied() {
    for what in
        ["write-to-readable", "read-elsewhere", "own-memory", "listen", "connect-elsewhere", "signal", "link"]
    {
        assert_eq!(confined(what).code(), Some(DENIED), "{what}");
    }
}

fn calls_and_arguments_that_are_not_named_kill_the_process() {
    for what in ["execute", "watch-process", "connect-by-sending", "rename", "thread", "executable-memory"] {
        assert_eq!(confined(what).signal(), Some(SIGSYS), "{what}");
    }
}

fn entering_with_threads_running_is_refused() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    let error = Policy::parse(POLICY).unwrap().enter(&[("folder", Path::new("/"))]).unwrap_err();
    assert!(matches!(error, sandbox::SandboxError::Threads(2..)), "{error}");
    drop(stop);
    other.join().unwrap().unwrap_err();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, probed, what, folder] = args.as_slice()
        && probed == "probe"
    {
        std::process::exit(probe(what, Path::new(folder)));
    }
    macro_rules! cases {
        ($($case:ident)*) => { [$((stringify!($case), $case as fn())),*] };
    }
    let cases = cases!(
        what_is_named_works
        paths_ports_and_signals_that_are_not_named_are_denied
        calls_and_arguments_that_are_not_named_kill_the_process
        entering_with_threads_running_is_refused
    );
    for (name, case) in cases {
        case();
        println!("test {name} ... ok");
    }
    println!("test result: ok. {} passed; 0 failed; 0 ignored", cases.len());
}
