//! The real process, with QEMU's tools as an independent NBD client.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use aws_lc_rs::digest::{SHA256, digest};
use parts::{Parts, Tool};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command},
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use wire::{
    Fault, Link,
    chip::{Event, EventKind, Line, LineReply, Region, Reply, Request},
};

const CODE_LENGTH: usize = 300_032;
const VARIABLES_LENGTH: usize = 70_144;

struct Chip {
    process: Child,
    folder: TempDir,
}

impl Chip {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("code"), image(1)).unwrap();
        fs::write(folder.path().join("variables"), vec![0x55; VARIABLES_LENGTH]).unwrap();
        let process = launch(&folder);
        Self { process, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn controller(&self) -> Link<Request, Reply> {
        wire::connect(&self.path("control.sock")).unwrap()
    }

    fn line(&self) -> Link<LineReply, Line> {
        wire::connect(&self.path("line.sock")).unwrap()
    }

    /// A board that follows the line and is known to the chip; tells what it heard when that are `count`.
    fn board(&self, count: usize) -> JoinHandle<Vec<Line>> {
        let line = self.line();
        let mut heard = vec![line.receive().unwrap().0];
        line.send(&LineReply::Done, &[]).unwrap();
        spawn(move || {
            while heard.len() < count {
                heard.push(line.receive().unwrap().0);
                line.send(&LineReply::Done, &[]).unwrap();
            }
            heard
        })
    }

    /// Runs commands, separated by `;`, on one connection.
    fn qemu_io(&self, export: &str, commands: &str) -> Option<String> {
        let url = format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock").display());
        let Ok(output) = tool(Tool::QemuIo)
            .args(["-f", "raw"])
            .args(commands.split(';').flat_map(|command| ["-c", command]))
            .arg(&url)
            .output()
        else {
            println!("skipped: qemu-io not found");
            return None;
        };
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = launch(&self.folder);
    }
}

/// An independent NBD client: the lab's, or the machine's if the lab's parts have not been fetched.
fn tool(tool: Tool) -> Command {
    let on_path = if matches!(tool, Tool::QemuIo) { "qemu-io" } else { "qemu-img" };
    Parts::locate(&parts::default_dir()).map_or_else(|_| Command::new(on_path), |parts| parts.command(tool))
}

impl Drop for Chip {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn launch(folder: &TempDir) -> Child {
    let [code, variables, nbd, control, line] =
        ["code", "variables", "nbd.sock", "control.sock", "line.sock"].map(|name| folder.path().join(name));
    let mut process = Command::new(env!("CARGO_BIN_EXE_azote-security-chip"))
        .env("RUST_LOG", "error")
        .arg("--code")
        .arg(code)
        .arg("--variables")
        .arg(variables)
        .arg("--nbd")
        .arg(nbd)
        .arg("--control")
        .arg(control)
        .arg("--line")
        .arg(&line)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while wire::connect::<LineReply, Line>(&line).is_err() {
        assert_eq!(process.try_wait().unwrap(), None);
        assert!(Instant::now() < deadline, "the chip did not start");
        sleep(Duration::from_millis(10));
    }
    process
}

fn image(seed: u8) -> Vec<u8> {
    (0..CODE_LENGTH).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect()
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ask(controller: &Link<Request, Reply>, request: &Request) -> Reply {
    controller.call(request, &[]).unwrap()
}

#[track_caller]
fn refused(reply: Reply, code: &str) {
    let Reply::Fault(fault) = reply else { panic!("{reply:?}") };
    assert_eq!(fault.code, code, "{fault}");
}

#[track_caller]
fn done(reply: &Reply) {
    assert!(matches!(reply, Reply::Done), "{reply:?}");
}

fn held(controller: &Link<Request, Reply>) -> bool {
    let Reply::Status { reset_held, .. } = ask(controller, &Request::Status) else { panic!() };
    reset_held
}

fn events(controller: &Link<Request, Reply>, after: u64) -> Vec<Event> {
    let Reply::Events { events, dropped: 0 } = ask(controller, &Request::Events { after }) else { panic!() };
    events
}

#[test]
fn reset_is_released_only_for_the_hash_that_the_flash_has_now() {
    let chip = Chip::start();
    let controller = chip.controller();
    let release = |code: String| ask(&controller, &Request::ReleaseReset { code });
    refused(release(hash(&image(1))), "chip.board-silent");
    let board = chip.board(3);
    refused(release(hash(&image(2))), "chip.unverified");
    refused(release("f".repeat(63)), "chip.request");
    refused(release("+f".repeat(32)), "chip.request");
    let measured = ask(&controller, &Request::Measure { region: Region::Code });
    let Reply::Measured { sha256, length } = measured else { panic!() };
    assert_eq!((&sha256, length), (&hash(&image(1)), CODE_LENGTH as u64));

    // Changed behind the chip's back between measuring and releasing.
    fs::write(chip.path("code"), image(3)).unwrap();
    refused(release(sha256.clone()), "chip.unverified");
    assert!(held(&controller));
    fs::write(chip.path("code"), image(1)).unwrap();
    done(&release(sha256.clone()));
    assert!(!held(&controller));
    // Again is no new release.
    done(&release(sha256));
    refused(release(hash(&image(2))), "chip.unverified");
    done(&ask(&controller, &Request::HoldReset));
    assert_eq!(board.join().unwrap(), [Line::Hold, Line::Release, Line::Hold]);
    let kinds: Vec<_> = events(&controller, 0).into_iter().map(|event| event.what).collect();
    assert_eq!(kinds, [EventKind::ResetReleased, EventKind::ResetHeld]);
}

#[test]
fn the_board_reads_code_writes_none_and_loses_variables_at_a_hold() {
    let chip = Chip::start();
    let controller = chip.controller();
    let _board = chip.board(3);
    let read_back = chip.path("read-back");
    let copy = tool(Tool::QemuImg)
        .args(["convert", "-f", "raw", "-O", "raw"])
        .arg(format!("nbd+unix:///code?socket={}", chip.path("nbd.sock").display()))
        .arg(&read_back)
        .status();
    if copy.is_err() {
        println!("skipped: qemu-img not found");
        return;
    }
    assert!(fs::read(&read_back).unwrap() == image(1));

    let write = |export, command| chip.qemu_io(export, command).unwrap();
    assert!(write("variables", "write -P 0x77 512 512").contains("Operation not permitted"), "held");
    done(&ask(&controller, &Request::ReleaseReset { code: hash(&image(1)) }));
    let first = events(&controller, 0).last().unwrap().seq;
    for command in ["write -P 0x66 4096 1024", "write -P 0x66 0 512"] {
        assert!(write("code", command).contains("Operation not permitted"));
    }
    let refused = events(&controller, first);
    let what =
        EventKind::WriteRefused { region: Region::Code, offset: 4096, bytes: 1536, attempts: 2, changing: 2 };
    assert_eq!(refused, [Event { seq: first + 1, what }]);
    assert_eq!(fs::read(chip.path("code")).unwrap(), image(1));

    let both = write("variables", "write -P 0x77 512 512;read -P 0x77 512 512");
    assert!(both.contains("wrote 512/512") && !both.contains("verification failed"), "{both}");
    // With its connections gone the board has stopped; it starts from the flash's own bytes.
    assert!(!write("variables", "read -P 0x55 512 512").contains("verification failed"));
    let keep = chip.path("nbd.sock");
    let board_runs = UnixStream::connect(keep).unwrap();
    assert!(write("variables", "write -P 0x77 512 512").contains("wrote 512/512"));
    assert!(!write("variables", "read -P 0x77 512 512").contains("verification failed"));
    done(&ask(&controller, &Request::HoldReset));
    assert!(!write("variables", "read -P 0x55 512 512").contains("verification failed"));
    assert!(write("variables", "read -P 0x77 512 512").contains("verification failed"));
    drop(board_runs);
    assert_eq!(fs::read(chip.path("variables")).unwrap(), vec![0x55; VARIABLES_LENGTH]);
}

#[test]
fn only_the_authorised_bytes_are_written() {
    let mut chip = Chip::start();
    let controller = chip.controller();
    let update = |controller: &Link<Request, Reply>, sha256: String, bytes: &[u8]| {
        let mut file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        controller.call(&Request::Update { sha256 }, &[file.as_fd()]).unwrap()
    };
    let new = image(2);
    refused(update(&controller, hash(&new), &image(3)), "chip.update-hash");
    refused(update(&controller, hash(&new[1..]), &new[1..]), "chip.update-length");
    let long = [&new[..], b"x"].concat();
    refused(update(&controller, hash(&long), &long), "chip.update-length");
    refused(ask(&controller, &Request::Update { sha256: hash(&new) }), "chip.request");
    let (pipe, _write_end) = rustix::pipe::pipe().unwrap();
    let piped = controller.call(&Request::Update { sha256: hash(&new) }, &[pipe.as_fd()]).unwrap();
    refused(piped, "chip.request");
    let _board = chip.board(3);
    done(&ask(&controller, &Request::ReleaseReset { code: hash(&image(1)) }));
    refused(update(&controller, hash(&new), &new), "chip.not-held");
    assert_eq!(fs::read(chip.path("code")).unwrap(), image(1));
    done(&ask(&controller, &Request::HoldReset));
    done(&update(&controller, hash(&new), &new));
    assert_eq!(fs::read(chip.path("code")).unwrap(), new);
    let last = events(&controller, 0).pop().unwrap().what;
    assert_eq!(last, EventKind::Updated { sha256: hash(&new) });
    drop(controller);
    chip.restart();
    let Reply::Measured { sha256, .. } = ask(&chip.controller(), &Request::Measure { region: Region::Code })
    else {
        panic!()
    };
    assert_eq!(sha256, hash(&new));
}

#[test]
fn the_line_survives_controllers_and_boards() {
    let chip = Chip::start();
    let release = Request::ReleaseReset { code: hash(&image(1)) };
    let line = chip.line();
    assert_eq!(line.receive().unwrap().0, Line::Hold);
    line.send(&LineReply::Done, &[]).unwrap();
    let controller = chip.controller();
    controller.send(&release, &[]).unwrap();
    assert_eq!(line.receive().unwrap().0, Line::Release);
    // While the board starts, the flash is served: QEMU reads it before it runs.
    let mut greeting = [0; 18];
    UnixStream::connect(chip.path("nbd.sock")).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
    line.send(&LineReply::Fault(Fault::new("board.fault", "\"".repeat(30_000))), &[]).unwrap();
    refused(controller.receive().unwrap().0, "chip.board-failed");
    assert_eq!(line.receive().unwrap().0, Line::Hold);
    assert!(held(&controller));

    controller.send(&release, &[]).unwrap();
    assert_eq!(line.receive().unwrap().0, Line::Release);
    drop(line);
    refused(controller.receive().unwrap().0, "chip.board-silent");
    assert!(held(&controller));

    let board = chip.board(2);
    done(&ask(&controller, &release));
    assert_eq!(board.join().unwrap(), [Line::Hold, Line::Release]);
    drop(controller);
    assert!(!held(&chip.controller()), "a lost board and a lost controller change nothing");
    let line = chip.line();
    assert_eq!(line.receive().unwrap().0, Line::Release, "a board that comes back learns the state");
}

#[test]
fn what_is_no_request_is_refused_and_the_chip_goes_on() {
    let chip = Chip::start();
    let link: Link<serde_json::Value, Reply> = Link::new(chip.controller().into());
    let reply = link.call(&serde_json::json!({"release-reset": {"code": 7}}), &[]).unwrap();
    refused(reply, "chip.request");
    // A second controller is turned away.
    assert!(chip.controller().call(&Request::Status, &[]).is_err());
    let mut hostile = UnixStream::connect(chip.path("nbd.sock")).unwrap();
    hostile.write_all(&[0xff; 4096]).unwrap();
    let mut rest = Vec::new();
    hostile.read_to_end(&mut rest).unwrap_or_default();
    assert!(held(&Link::new(link.into())));
}
