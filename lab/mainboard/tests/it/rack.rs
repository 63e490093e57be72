//! A board with the real security chip and the real firmware, and their sockets in the test's hands.

use parts::Parts;
use rustix::process::Pid;
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};
use wire::{
    Link,
    board::{Power, Reply as BoardReply, Request as BoardRequest, Status},
    chip::{
        Attempts, Event, EventKind, Firmware, Line, Region, Reply as ChipReply, Request as ChipRequest,
        Target,
    },
};

/// The prompt of the firmware's shell, with the colours after it: before them it drops what is typed.
pub const PROMPT: &str = "Shell> \x1b[0m\x1b[37m\x1b[40m";
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `ready` gives something.
pub fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(got) = ready() {
            return got;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain: {what}")
}

/// A program of another package, beside the board's; cargo builds only this package's own for a test. It is built with
/// the features that it has in a build of everything, so that such a build serves here.
pub fn built(program: &str) -> PathBuf {
    let built =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--workspace", "--bin", program]).status();
    assert!(built.unwrap().success());
    Path::new(env!("CARGO_BIN_EXE_azote-mainboard")).with_file_name(program)
}

pub struct Rack {
    pub chip: Child,
    pub board: Child,
    pub to_chip: Link<ChipRequest, ChipReply>,
    pub to_board: Link<BoardRequest, BoardReply>,
    console: UnixStream,
    pub dir: tempfile::TempDir,
}

impl Drop for Rack {
    fn drop(&mut self) {
        for child in [&mut self.board, &mut self.chip] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Rack {
    pub fn power() -> Self {
        let lab = parts::default_dir();
        let parts = Parts::locate_or_fetch(&lab, &mut |at| println!("{at}")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::copy(parts.firmware_code(), at("code")).unwrap();
        fs::copy(parts.firmware_variables(), at("variables")).unwrap();
        fs::write(at("bmc-flash"), parts::bmc_flash()).unwrap();
        let mut chip = Command::new(built("azote-security-chip"));
        chip.arg("--bmc").arg(at("bmc-flash"));
        for name in ["code", "variables", "nbd", "control", "line", "cpu-bus", "bmc-bus"] {
            chip.arg(format!("--{name}")).arg(at(name));
        }
        let chip = chip.spawn().unwrap();
        let to_chip = wait("chip", || wire::connect(&at("control")).ok());
        let mut board = Command::new(env!("CARGO_BIN_EXE_azote-mainboard"));
        for (name, file) in [
            ("line", "line"),
            ("firmware", "nbd"),
            ("cpu-bus", "cpu-bus"),
            ("bmc-bus", "bmc-bus"),
            ("control", "bmc"),
            ("console", "console"),
        ] {
            board.arg(format!("--{name}")).arg(at(file));
        }
        let board = board.arg("--parts").arg(&lab).spawn().unwrap();
        let to_board = wait("board", || wire::connect(&at("bmc")).ok());
        let console = UnixStream::connect(at("console")).unwrap();
        Self { chip, board, to_chip, to_board, console, dir }
    }

    pub fn status(&self) -> Status {
        match self.to_board.call(&BoardRequest::Status, &[]).unwrap() {
            BoardReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_for(&self, power: Power) {
        wait("power", || (self.status().power == power).then_some(()));
    }

    pub fn code(&self) -> String {
        self.measure(Region::Code)
    }

    fn measure(&self, region: Region) -> String {
        match self.to_chip.call(&ChipRequest::Measure { region }, &[]).unwrap() {
            ChipReply::Measured { sha256, .. } => sha256,
            other => panic!("{other:?}"),
        }
    }

    pub fn events(&self) -> Vec<Event> {
        let reply = self.to_chip.call(&ChipRequest::Events { after: 0 }, &[]).unwrap();
        let ChipReply::Events { events, .. } = reply else { panic!("no events") };
        events
    }

    /// The controller's end of the chip's socket goes away.
    pub fn lose_controller(&mut self) {
        let (theirs, _) = Link::pair().unwrap();
        self.to_chip = theirs;
    }

    /// And comes back.
    pub fn find_controller(&mut self) {
        self.to_chip = wire::connect(&self.dir.path().join("control")).unwrap();
    }

    /// Whether the chip has recorded a refused write to this byte of the firmware.
    pub fn refused(&self, byte: u64) -> bool {
        self.events().iter().any(|event| {
            matches!(&event.what, EventKind::WriteRefused(Attempts { target: Target::Code, offset, bytes, .. })
                if (*offset..offset + bytes).contains(&byte))
        })
    }

    pub fn bmc_raw(&self, request: &BoardRequest) -> BoardReply {
        self.to_board.call(request, &[]).unwrap()
    }

    pub fn bmc(&self, request: &BoardRequest) {
        let reply = self.bmc_raw(request);
        assert!(matches!(reply, BoardReply::Done), "{reply:?}");
    }

    pub fn plug(&self, slot: u8, socket: &Path) {
        self.bmc(&BoardRequest::Plug { slot: slot.try_into().unwrap(), socket: socket.to_owned() });
    }

    pub fn release(&self) {
        for line in [Line::Bmc, Line::Board, Line::Cpu] {
            self.release_line(line);
        }
    }

    pub fn release_line(&self, line: Line) {
        let firmware = Firmware { code: self.code(), bmc: Some(self.measure(Region::Bmc)) };
        let reply = self.to_chip.call(&ChipRequest::Release { line, firmware }, &[]).unwrap();
        assert!(matches!(reply, ChipReply::Done), "{reply:?}");
    }

    pub fn hold(&self) {
        let reply = self.to_chip.call(&ChipRequest::Hold { line: Line::Board }, &[]).unwrap();
        assert!(matches!(reply, ChipReply::Done), "{reply:?}");
    }

    /// What the console prints up to `text`.
    pub fn until(&mut self, text: &str) {
        self.console.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) {
            if !matches!(self.console.read(&mut byte), Ok(1)) {
                panic!("no {text:?} in {}", String::from_utf8_lossy(&seen));
            }
            seen.extend(byte);
        }
    }

    /// Skips the start-up script of the firmware's shell.
    pub fn until_shell(&mut self) {
        self.until("any other key");
        self.console.write_all(b"\x1b").unwrap();
        self.until(PROMPT);
    }

    /// Types a line into the console.
    pub fn type_line(&mut self, line: &str) {
        self.console.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    /// QEMU's process id.
    pub fn qemu(&self) -> Pid {
        let board = self.board.id();
        let children = fs::read_to_string(format!("/proc/{board}/task/{board}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }
}

/// Whether a process executes: one that has ended and waits for its parent does not.
pub fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    !matches!(stat.rsplit(") ").next().unwrap().chars().next(), None | Some('Z' | 'X'))
}
