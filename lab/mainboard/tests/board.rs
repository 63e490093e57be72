//! The board with the real security chip and the real firmware. There is no disk: the firmware's own shell is
//! the guest.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use parts::Parts;
use rustix::process::{Pid, Signal, kill_process};
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
    chip::{EventKind, Region, Reply as ChipReply, Request as ChipRequest},
};

/// The prompt of the firmware's shell, with the colours after it: before them it drops what is typed.
const PROMPT: &str = "Shell> \x1b[0m\x1b[37m\x1b[40m";
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `ready` gives something.
fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(got) = ready() {
            return got;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain: {what}")
}

/// The chip's program, beside the board's; cargo builds only this package's own programs for a test.
fn chip_program() -> PathBuf {
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "security-chip"]).status();
    assert!(built.unwrap().success());
    Path::new(env!("CARGO_BIN_EXE_azote-mainboard")).with_file_name("azote-security-chip")
}

struct Rack {
    chip: Child,
    board: Child,
    to_chip: Link<ChipRequest, ChipReply>,
    to_board: Link<BoardRequest, BoardReply>,
    console: UnixStream,
    dir: tempfile::TempDir,
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
    fn power() -> Self {
        let lab = parts::default_dir();
        let parts = Parts::locate_or_fetch(&lab, &mut |at| println!("{at}")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::copy(parts.firmware_code(), at("code")).unwrap();
        fs::copy(parts.firmware_variables(), at("variables")).unwrap();
        let mut chip = Command::new(chip_program());
        for name in ["code", "variables", "nbd", "control", "line"] {
            chip.arg(format!("--{name}")).arg(at(name));
        }
        let chip = chip.spawn().unwrap();
        let to_chip = wait("chip", || wire::connect(&at("control")).ok());
        let mut board = Command::new(env!("CARGO_BIN_EXE_azote-mainboard"));
        for (name, file) in
            [("line", "line"), ("firmware", "nbd"), ("control", "bmc"), ("console", "console")]
        {
            board.arg(format!("--{name}")).arg(at(file));
        }
        let board = board.arg("--parts").arg(&lab).spawn().unwrap();
        let to_board = wait("board", || wire::connect(&at("bmc")).ok());
        let console = UnixStream::connect(at("console")).unwrap();
        Self { chip, board, to_chip, to_board, console, dir }
    }

    fn status(&self) -> Status {
        match self.to_board.call(&BoardRequest::Status, &[]).unwrap() {
            BoardReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn wait_for(&self, power: Power) {
        wait("power", || (self.status().power == power).then_some(()));
    }

    fn code(&self) -> String {
        match self.to_chip.call(&ChipRequest::Measure { region: Region::Code }, &[]).unwrap() {
            ChipReply::Measured { sha256, .. } => sha256,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the chip has recorded a refused write to this byte of the firmware.
    fn refused(&self, byte: u64) -> bool {
        let ChipReply::Events { events, .. } =
            self.to_chip.call(&ChipRequest::Events { after: 0 }, &[]).unwrap()
        else {
            panic!("no events")
        };
        events.iter().any(|event| {
            matches!(&event.what, EventKind::WriteRefused { region: Region::Code, offset, bytes, .. }
                if (*offset..offset + bytes).contains(&byte))
        })
    }

    fn release(&self) {
        let reply = self.to_chip.call(&ChipRequest::ReleaseReset { code: self.code() }, &[]).unwrap();
        assert!(matches!(reply, ChipReply::Done), "{reply:?}");
    }

    fn hold(&self) {
        let reply = self.to_chip.call(&ChipRequest::HoldReset, &[]).unwrap();
        assert!(matches!(reply, ChipReply::Done), "{reply:?}");
    }

    /// What the console prints up to `text`.
    fn until(&mut self, text: &str) {
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
    fn until_shell(&mut self) {
        self.until("any other key");
        self.console.write_all(b"\x1b").unwrap();
        self.until(PROMPT);
    }

    fn shell(&mut self, command: &str) {
        self.console.write_all(format!("{command}\r").as_bytes()).unwrap();
    }

    /// QEMU's process id.
    fn qemu(&self) -> Pid {
        let board = self.board.id();
        let children = fs::read_to_string(format!("/proc/{board}/task/{board}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }
}

/// Whether a process executes: one that has ended and waits for its parent does not.
fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    !matches!(stat.rsplit(") ").next().unwrap().chars().next(), None | Some('Z' | 'X'))
}

#[test]
fn the_chip_decides_when_processors_run_and_keeps_the_firmware() {
    let mut rack = Rack::power();
    let before = rack.code();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Held, 0));
    rack.release();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Running, 1));
    rack.until_shell();

    // The flash ends where 4 GiB end. Reading the record sets the firmware's own attempts apart.
    let start = (1_u64 << 32) - fs::metadata(rack.dir.path().join("code")).unwrap().len();
    let byte = 0xFFF0_0000 - start;
    assert!(!rack.refused(byte));
    // Programs one byte of the firmware, as the flash's command set has it.
    rack.shell("mm FFF00000 40 -w 1 -MEM -n");
    rack.until(PROMPT);
    rack.shell("mm FFF00000 00 -w 1 -MEM -n");
    rack.until(PROMPT);
    wait("the refusal on record", || rack.refused(byte).then_some(()));
    assert_eq!(rack.code(), before);

    // The guest's own reset is a fresh machine that reads the chip's bytes.
    let first = rack.qemu();
    rack.shell("reset");
    rack.until_shell();
    assert_eq!((rack.status().boots, lives(first), rack.qemu() == first), (2, false, false));
    rack.shell("reset -s");
    rack.wait_for(Power::Off);
    rack.hold();
    assert_eq!(rack.status().power, Power::Held);
    rack.release();
    rack.until("BdsDxe");
    rack.hold();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Held, 3));
}

#[test]
fn a_cut_reset_line_holds_and_no_machine_outlives_its_board() {
    let mut rack = Rack::power();
    rack.release();
    let running = rack.qemu();
    rack.chip.kill().unwrap();
    rack.wait_for(Power::Held);
    assert!(!lives(running));
    let fault = BoardRequest::Plug { slot: 3.try_into().unwrap(), socket: "relative".into() };
    assert!(matches!(rack.to_board.call(&fault, &[]), Ok(BoardReply::Fault(f)) if f.code == "slot.socket"));

    // The chip is gone, so no machine waits; SIGTERM ends the board in order.
    kill_process(Pid::from_child(&rack.board), Signal::TERM).unwrap();
    assert!(rack.board.wait().unwrap().success());
    for socket in ["bmc", "console", "bmc.qmp"] {
        assert!(!rack.dir.path().join(socket).exists(), "{socket}");
    }

    let mut rack = Rack::power();
    rack.release();
    let qemu = rack.qemu();
    assert!(lives(qemu));
    rack.board.kill().unwrap();
    rack.board.wait().unwrap();
    wait("QEMU ends with its board", || (!lives(qemu)).then_some(()));
}
