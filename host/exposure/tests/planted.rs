//! Real processes with something planted in them, each of which must be found; and a confined one in which nothing is.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use exposure::{Allowances, Expectations, Report, Scope, judge, survey};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Child, Command, Stdio},
};

const POLICY: &str = r#"
[process]
name = "NAME"
landlock = "best-effort"

[[listen]]
at = "{installation}/named"
why = "the test"

[[hold]]
path = "{installation}/log"
access = "write"
why = "the test"

[[syscall]]
names = ["read", "write", "close", "exit_group", "sigaltstack", "munmap", "rt_sigaction", "futex"]
why = "the test"
"#;

/// What a child holds on to while it is looked at.
#[allow(dead_code, reason = "held, not used")]
enum Held {
    Descriptor(OwnedFd),
    Several(Vec<OwnedFd>),
    Nothing,
}

fn plant(what: &str, folder: &Path) -> Held {
    match what {
        "listener" => Held::Descriptor(TcpListener::bind("127.0.0.1:0").unwrap().into()),
        "datagrams" => Held::Descriptor(UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        "unix-listener" => Held::Descriptor(UnixListener::bind(folder.join("other")).unwrap().into()),
        "connection" => {
            let port: u16 = fs::read_to_string(folder.join("port")).unwrap().parse().unwrap();
            Held::Descriptor(TcpStream::connect(("127.0.0.1", port)).unwrap().into())
        }
        "file" => Held::Descriptor(File::create(folder.join("secret")).unwrap().into()),
        "terminal" | "controlling-terminal" => {
            let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&ours).unwrap();
            unlockpt(&ours).unwrap();
            let path = ptsname(&ours, Vec::new()).unwrap();
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
            let theirs = rustix::fs::open(path.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
            if what == "controlling-terminal" {
                rustix::process::ioctl_tiocsctty(&theirs).unwrap();
                drop(theirs);
                return Held::Descriptor(ours);
            }
            Held::Several(vec![ours, theirs])
        }
        "rwx" | "executable-memory" => {
            let write = if what == "rwx" { ProtFlags::WRITE } else { ProtFlags::empty() };
            let rights = ProtFlags::READ | ProtFlags::EXEC | write;
            // SAFETY: a fresh private page that nobody uses.
            unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE) }.unwrap();
            Held::Nothing
        }
        "library" => {
            let file = File::open("/bin/sh").unwrap();
            let rights = ProtFlags::READ | ProtFlags::EXEC;
            // SAFETY: a fresh private mapping that nobody uses.
            unsafe { mmap(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE, &file, 0) }.unwrap();
            Held::Nothing
        }
        "traced" => {
            // SAFETY: it changes who is told of this process's signals, no memory.
            assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME) }, 0);
            Held::Nothing
        }
        _ => Held::Nothing,
    }
}

/// The body of a child: plants, confines itself if it is to, says so, and waits.
fn child(what: &str, folder: &Path) {
    rustix::process::setsid().unwrap();
    let held = plant(what, folder);
    let listener = UnixListener::bind(folder.join("named")).unwrap();
    let log = File::create(folder.join("log")).unwrap();
    if what == "confined" {
        sandbox::Policy::parse(&policy()).unwrap().enter(&[]).unwrap();
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    drop((held, listener, log));
}

fn name() -> String {
    std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

fn policy() -> String {
    POLICY.replace("NAME", &name())
}

struct Planted {
    child: Child,
    folder: tempfile::TempDir,
    /// What a child connects to.
    _listener: TcpListener,
}

impl Planted {
    fn start(what: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        fs::write(folder.path().join("port"), listener.local_addr().unwrap().port().to_string()).unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("child")
            .arg(what)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{what}");
        let stat = fs::read(format!("/proc/{}/stat", child.id())).unwrap();
        let started = exposure::parse::stat(&stat).unwrap().started;
        fs::write(folder.path().join("run/child.pid"), format!("{} boot {started}\n", child.id())).unwrap();
        Self { child, folder, _listener: listener }
    }

    fn report(&self, policy: &str) -> Report {
        let expected = Expectations::parse([policy], "").unwrap();
        let survey = survey(self.folder.path(), Scope::Installation).unwrap();
        assert_eq!(survey.processes.len(), 1, "{survey:#?}");
        let findings = judge(&survey, &expected, Allowances { unread: true });
        let report = Report::new(survey, findings);
        assert!(report.text(&expected).contains(&name()));
        report
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn codes(report: &Report) -> BTreeSet<&'static str> {
    report.findings.iter().filter(|finding| finding.fails).map(|finding| finding.code).collect()
}

/// What a process shows that never entered its sandbox.
fn unconfined() -> BTreeSet<&'static str> {
    let mut codes: BTreeSet<_> =
        ["exposure.filter", "exposure.no-new-privs", "exposure.shell", "exposure.dumpable"].into();
    let report = Planted::start("nothing").report(&policy());
    let root = rustix::process::geteuid().is_root();
    let has = |held: bool, code, codes: &mut BTreeSet<_>| {
        codes.remove(code);
        if held {
            codes.insert(code);
        }
    };
    // The kernel does not tell of root's processes whether they can be dumped.
    has(!root, "exposure.dumpable", &mut codes);
    let any = report.survey.setuid.read().is_some_and(|programs| !programs.is_empty());
    has(any, "exposure.setuid", &mut codes);
    let own = exposure::parse::status(&fs::read("/proc/self/status").unwrap()).unwrap().capabilities;
    has(own.bounding | own.effective != 0, "exposure.capability", &mut codes);
    codes
}

fn what_is_planted_is_found_and_nothing_else() {
    let usual = unconfined();
    for (what, code) in [
        ("nothing", None),
        ("listener", Some("exposure.listener")),
        ("datagrams", Some("exposure.listener")),
        ("unix-listener", Some("exposure.listener")),
        ("connection", Some("exposure.connection")),
        ("file", Some("exposure.file")),
        ("controlling-terminal", Some("exposure.terminal")),
        ("rwx", Some("exposure.writable-executable")),
        ("executable-memory", Some("exposure.executable-memory")),
        ("library", Some("exposure.mapping")),
        ("traced", Some("exposure.traced")),
    ] {
        let report = Planted::start(what).report(&policy());
        let mut wanted = usual.clone();
        wanted.extend(code);
        if what == "controlling-terminal" {
            // The other end of it is a file too.
            wanted.insert("exposure.file");
        }
        assert_eq!(codes(&report), wanted, "{what}: {:#?}", report.findings);
        assert!(!report.holds);
    }
    let report = Planted::start("terminal").report(&policy());
    assert!(
        report.findings.iter().any(|it| it.code == "exposure.terminal" && it.detail.contains("/dev/pts/"))
    );
}

fn a_confined_process_shows_what_its_sandbox_file_names() {
    let confined = Planted::start("confined");
    let report = confined.report(&policy());
    assert!(report.holds, "{:#?}", report.findings);
    let process = &report.survey.processes[0];
    let thread = &process.threads.read().unwrap()[0];
    let sets = thread.capabilities;
    assert_eq!((sets.effective, sets.permitted, sets.inheritable, sets.ambient), (0, 0, 0, 0));
    if rustix::process::geteuid().is_root() {
        assert_eq!(sets.bounding, 0, "root can give it up, so it must");
        assert_eq!(process.listeners.read().unwrap().len(), 1);
    } else {
        assert!(process.files.read().is_none(), "what cannot be dumped shows nothing to its own user");
    }
    let less = policy().replace("[[listen]]\nat = \"{installation}/named\"\nwhy = \"the test\"\n", "");
    assert!(codes(&confined.report(&less)).contains("exposure.listener"), "with or without a visible owner");
    let other = policy().replace(&name(), "other");
    assert!(codes(&confined.report(&other)).contains("exposure.unknown-process"));
}

fn an_installation_that_is_not_up_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    assert!(survey(folder.path(), Scope::Installation).unwrap_err().to_string().contains("azote up"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, what, folder] = arguments.as_slice()
        && mode == "child"
    {
        return child(what, Path::new(folder));
    }
    for (name, case) in [
        ("what_is_planted_is_found_and_nothing_else", what_is_planted_is_found_and_nothing_else as fn()),
        (
            "a_confined_process_shows_what_its_sandbox_file_names",
            a_confined_process_shows_what_its_sandbox_file_names,
        ),
        ("an_installation_that_is_not_up_is_said_to_be_so", an_installation_that_is_not_up_is_said_to_be_so),
    ] {
        case();
        println!("test {name} ... ok");
    }
}
