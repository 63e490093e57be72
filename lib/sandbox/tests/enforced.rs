//! What the sandbox denies is really denied: each case confines a process of its own and lets it try.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use sandbox::{Policy, Violation};
use std::{
    fs::{self, File},
    io::ErrorKind::WouldBlock,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

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
names = ["rt_sigaction", "rt_sigprocmask", "rt_sigreturn"]
why = "the test"

[[syscall]]
names = ["mkdir", "seccomp", "prctl"]
early = true
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
        "connect-by-sending" => connect_by_sending(port("port")),
        "send-message" => send_message(port("port")),
        "send-with-handler-blocked" => {
            block_sigsys();
            send_message(port("port"))
        }
        "replace-handler" => {
            // SAFETY: no handler, so nothing that runs in one.
            unsafe { libc::signal(libc::SIGSYS, libc::SIG_IGN) };
            true
        }
        "replace-another-handler" => {
            // SAFETY: no handler, so nothing that runs in one.
            unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) != libc::SIG_ERR }
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
        "early" => fs::create_dir(folder.join("write/new")).is_ok(),
        "early-after-narrowing" => {
            Policy::parse(POLICY).unwrap().narrow(&[]).unwrap();
            fs::create_dir(folder.join("write/new")).is_ok()
        }
        "narrow-again" => {
            let policy = Policy::parse(POLICY).unwrap();
            policy.narrow(&[]).unwrap();
            policy.narrow(&[]).is_ok()
        }
        "read-after-narrowing" => {
            Policy::parse(POLICY).unwrap().narrow(&[]).unwrap();
            !attempt("link", folder) && attempt("read", folder)
        }
        "rename" => fs::rename(folder.join("write/old"), folder.join("write/new")).is_ok(),
        "thread" => std::thread::spawn(|| ()).join().is_ok(),
        "executable-memory" => executable_memory(),
        other => panic!("no case {other}"),
    }
}

fn connect_by_sending(port: u16) -> bool {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    const MSG_FASTOPEN: u32 = 0x2000_0000;
    let fd = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    sendto(&fd, b"out", SendFlags::from_bits_retain(MSG_FASTOPEN), &to).is_ok()
}

fn send_message(port: u16) -> bool {
    use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketType, sendmsg_addr, socket};
    let fd = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    let message = [std::io::IoSlice::new(b"out")];
    let mut none = SendAncillaryBuffer::default();
    sendmsg_addr(&fd, &to, &message, &mut none, SendFlags::empty()).is_ok()
}

fn block_sigsys() {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: it initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: just initialised.
    let mut set = unsafe { set.assume_init() };
    // SAFETY: an initialised set, and a signal that there is.
    assert_eq!(unsafe { libc::sigaddset(&raw mut set, libc::SIGSYS) }, 0);
    // SAFETY: an initialised set; no old one is wanted.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }, 0);
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
    let datagrams = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
    let probe =
        Command::new(std::env::current_exe().unwrap()).arg("probe").arg(what).arg(folder.path()).status();
    listener.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), WouldBlock, "{what}: a connection came out");
    assert_eq!(datagrams.recv(&mut [0]).unwrap_err().kind(), WouldBlock, "{what}: a datagram came out");
    probe.unwrap()
}

fn what_is_named_works() {
    for what in [
        "read",
        "write",
        "remove",
        "connect-named",
        "replace-another-handler",
        "early",
        "read-after-narrowing",
    ] {
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
    for what in [
        "execute",
        "watch-process",
        "rename",
        "thread",
        "executable-memory",
        "replace-handler",
        "early-after-narrowing",
        "narrow-again",
    ] {
        let status = confined(what);
        assert_eq!(
            (status.signal(), Violation::of(status)),
            (Some(libc::SIGSYS), Some(Violation::Other)),
            "{what}"
        );
    }
}

fn the_parent_is_told_that_a_process_ended_because_it_reached_out() {
    for what in ["connect-by-sending", "send-message"] {
        let status = confined(what);
        assert_eq!((status.signal(), Violation::of(status)), (None, Some(Violation::Outbound)), "{what}");
    }
    let status = confined("send-with-handler-blocked");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "a process that blocks SIGSYS lived on");
    assert_eq!(Violation::of(confined("read")), None);
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
        the_parent_is_told_that_a_process_ended_because_it_reached_out
        entering_with_threads_running_is_refused
    );
    for (name, case) in cases {
        case();
        println!("test {name} ... ok");
    }
    println!("test result: ok. {} passed; 0 failed; 0 ignored", cases.len());
}
