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
    chip::{
        Attempts, BusReply, Event, EventKind, Firmware, Line, LineReply, Lines, Master, Region, Reply,
        Request, Reset, Target, Transaction,
    },
};

const CODE_LENGTH: usize = 300_032;
const VARIABLES_LENGTH: usize = 70_144;
const BMC_LENGTH: usize = 4096;
const BOARD_RELEASED: Lines = Lines { cpu: Reset::Held, ..Lines::RELEASED };
const BMC_RELEASED: Lines = Lines { bmc: Reset::Released, ..Lines::HELD };

struct Chip {
    process: Child,
    folder: TempDir,
}

impl Chip {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("code"), image(1)).unwrap();
        fs::write(folder.path().join("variables"), vec![0x55; VARIABLES_LENGTH]).unwrap();
        fs::write(folder.path().join("bmc"), vec![0x33; BMC_LENGTH]).unwrap();
        let process = launch(&folder);
        Self { process, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A controller that the chip listens to: while other tests fork, one that was dropped may still be there.
    fn controller(&self) -> Link<Request, Reply> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let link = self.another_controller();
            if link.call(&Request::Status, &[]).is_ok() {
                return link;
            }
            assert!(Instant::now() < end, "the chip has another controller");
            sleep(Duration::from_millis(10));
        }
    }

    fn another_controller(&self) -> Link<Request, Reply> {
        wire::connect(&self.path("control.sock")).unwrap()
    }

    fn bus(&self, name: &str) -> Link<Transaction, BusReply> {
        wire::connect(&self.path(name)).unwrap()
    }

    fn line(&self) -> Link<LineReply, Lines> {
        wire::connect(&self.path("line.sock")).unwrap()
    }

    /// A board that follows the line and is known to the chip; tells what it heard when that are `count`.
    fn board(&self, count: usize) -> JoinHandle<Vec<Lines>> {
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
    let line = folder.path().join("line.sock");
    let mut process = Command::new(env!("CARGO_BIN_EXE_azote-security-chip"));
    process.env("RUST_LOG", "error");
    for (flag, name) in [
        ("code", "code"),
        ("variables", "variables"),
        ("bmc", "bmc"),
        ("nbd", "nbd.sock"),
        ("control", "control.sock"),
        ("line", "line.sock"),
        ("cpu-bus", "cpu.sock"),
        ("bmc-bus", "bmc.sock"),
    ] {
        process.arg(format!("--{flag}")).arg(folder.path().join(name));
    }
    let mut process = process.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while wire::connect::<LineReply, Lines>(&line).is_err() {
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

fn lines(controller: &Link<Request, Reply>) -> Lines {
    let Reply::Status { lines, .. } = ask(controller, &Request::Status) else { panic!() };
    lines
}

/// For the BMC's firmware as it is, and this of the processors.
fn release(line: Line, code: &str) -> Request {
    let firmware = Firmware { code: code.to_owned(), bmc: Some(hash(&[0x33; BMC_LENGTH])) };
    Request::Release { line, firmware }
}

fn release_all(controller: &Link<Request, Reply>, code: &str) {
    for line in [Line::Bmc, Line::Board, Line::Cpu] {
        done(&ask(controller, &release(line, code)));
    }
}

fn events(controller: &Link<Request, Reply>, after: u64) -> Vec<Event> {
    let Reply::Events { events, dropped: 0 } = ask(controller, &Request::Events { after }) else { panic!() };
    events
}

#[test]
fn reset_is_released_only_for_the_hash_that_the_flash_has_now() {
    let chip = Chip::start();
    let controller = chip.controller();
    let bmc = |code: &str| ask(&controller, &release(Line::Bmc, code));
    let (right, wrong) = (hash(&image(1)), hash(&image(2)));
    refused(bmc(&right), "chip.board-silent");
    let board = chip.board(6);
    refused(bmc(&wrong), "chip.unverified");
    refused(bmc(&"f".repeat(63)), "chip.request");
    refused(bmc(&"+f".repeat(32)), "chip.request");
    let firmware = Firmware { code: right.clone(), bmc: None };
    refused(ask(&controller, &Request::Release { line: Line::Cpu, firmware }), "chip.unverified");
    for (region, content) in [(Region::Code, &image(1)), (Region::Bmc, &vec![0x33; BMC_LENGTH])] {
        let measured = ask(&controller, &Request::Measure { region });
        let Reply::Measured { sha256, length } = measured else { panic!() };
        assert_eq!((sha256, length), (hash(content), content.len() as u64));
    }

    // Changed behind the chip's back between measuring and releasing.
    fs::write(chip.path("code"), image(3)).unwrap();
    refused(bmc(&right), "chip.unverified");
    assert_eq!(lines(&controller), Lines::HELD);
    fs::write(chip.path("code"), image(1)).unwrap();
    refused(ask(&controller, &release(Line::Cpu, &right)), "chip.order");
    done(&bmc(&right));
    assert_eq!(lines(&controller), BMC_RELEASED);
    fs::write(chip.path("code"), image(3)).unwrap();
    refused(ask(&controller, &release(Line::Board, &right)), "chip.unverified");
    fs::write(chip.path("code"), image(1)).unwrap();
    release_all(&controller, &right);
    // Again is no new release.
    release_all(&controller, &right);
    refused(bmc(&wrong), "chip.unverified");
    done(&ask(&controller, &Request::Hold { line: Line::Board }));
    done(&ask(&controller, &Request::Hold { line: Line::Bmc }));
    assert_eq!(
        board.join().unwrap(),
        [Lines::HELD, BMC_RELEASED, BOARD_RELEASED, Lines::RELEASED, BMC_RELEASED, Lines::HELD]
    );
    let kinds: Vec<_> = events(&controller, 0).into_iter().map(|event| event.what).collect();
    let released = [Line::Bmc, Line::Board, Line::Cpu].map(|line| EventKind::ResetReleased { line });
    let taken = [Line::Cpu, Line::Board, Line::Bmc].map(|line| EventKind::ResetHeld { line });
    assert_eq!(kinds, [released, taken].concat());
}

#[test]
fn the_board_reads_code_writes_none_and_loses_variables_at_a_hold() {
    let chip = Chip::start();
    let controller = chip.controller();
    let _board = chip.board(5);
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
    release_all(&controller, &hash(&image(1)));
    let first = events(&controller, 0).last().unwrap().seq;
    for command in ["write -P 0x66 4096 1024", "write -P 0x66 0 512"] {
        assert!(write("code", command).contains("Operation not permitted"));
    }
    let refused = events(&controller, first);
    let (master, target) = (Master::Cpu, Target::Code);
    let attempts = Attempts { master, target, offset: 4096, bytes: 1536, attempts: 2, changing: 2 };
    assert_eq!(refused, [Event { seq: first + 1, what: EventKind::WriteRefused(attempts) }]);
    assert_eq!(fs::read(chip.path("code")).unwrap(), image(1));

    let both = write("variables", "write -P 0x77 512 512;read -P 0x77 512 512");
    assert!(both.contains("wrote 512/512") && !both.contains("verification failed"), "{both}");
    // With its connections gone the board has stopped; it starts from the flash's own bytes.
    assert!(!write("variables", "read -P 0x55 512 512").contains("verification failed"));
    let keep = chip.path("nbd.sock");
    let board_runs = UnixStream::connect(keep).unwrap();
    assert!(write("variables", "write -P 0x77 512 512").contains("wrote 512/512"));
    assert!(!write("variables", "read -P 0x77 512 512").contains("verification failed"));
    done(&ask(&controller, &Request::Hold { line: Line::Cpu }));
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
        controller.call(&Request::Update { region: Region::Code, sha256 }, &[file.as_fd()]).unwrap()
    };
    let new = image(2);
    refused(update(&controller, hash(&new), &image(3)), "chip.update-hash");
    refused(update(&controller, hash(&new[1..]), &new[1..]), "chip.update-length");
    let long = [&new[..], b"x"].concat();
    refused(update(&controller, hash(&long), &long), "chip.update-length");
    refused(ask(&controller, &Request::Update { region: Region::Code, sha256: hash(&new) }), "chip.request");
    let (pipe, _write_end) = rustix::pipe::pipe().unwrap();
    let piped = controller
        .call(&Request::Update { region: Region::Code, sha256: hash(&new) }, &[pipe.as_fd()])
        .unwrap();
    refused(piped, "chip.request");
    let _board = chip.board(5);
    release_all(&controller, &hash(&image(1)));
    refused(update(&controller, hash(&new), &new), "chip.not-held");
    assert_eq!(fs::read(chip.path("code")).unwrap(), image(1));
    done(&ask(&controller, &Request::Hold { line: Line::Cpu }));
    done(&update(&controller, hash(&new), &new));
    assert_eq!(fs::read(chip.path("code")).unwrap(), new);
    let last = events(&controller, 0).pop().unwrap().what;
    assert_eq!(last, EventKind::Updated { region: Region::Code, sha256: hash(&new) });
    drop(controller);
    chip.restart();
    let Reply::Measured { sha256, .. } = ask(&chip.controller(), &Request::Measure { region: Region::Code })
    else {
        panic!()
    };
    assert_eq!(sha256, hash(&new));
}

#[test]
fn the_lines_survive_controllers_and_boards() {
    let chip = Chip::start();
    let code = hash(&image(1));
    let line = chip.line();
    assert_eq!(line.receive().unwrap().0, Lines::HELD);
    line.send(&LineReply::Done, &[]).unwrap();
    let controller = chip.controller();
    let bmc = release(Line::Bmc, &code);
    controller.send(&bmc, &[]).unwrap();
    assert_eq!(line.receive().unwrap().0, BMC_RELEASED);
    // While the board starts, the flash is served: QEMU reads it before it runs.
    let mut greeting = [0; 18];
    UnixStream::connect(chip.path("nbd.sock")).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
    line.send(&LineReply::Fault(Fault::new("board.fault", "\"".repeat(30_000))), &[]).unwrap();
    refused(controller.receive().unwrap().0, "chip.board-failed");
    assert_eq!(line.receive().unwrap().0, Lines::HELD);
    assert_eq!(lines(&controller), Lines::HELD);

    controller.send(&bmc, &[]).unwrap();
    assert_eq!(line.receive().unwrap().0, BMC_RELEASED);
    drop(line);
    refused(controller.receive().unwrap().0, "chip.board-silent");
    assert_eq!(lines(&controller), Lines::HELD);

    let board = chip.board(4);
    release_all(&controller, &code);
    assert_eq!(board.join().unwrap(), [Lines::HELD, BMC_RELEASED, BOARD_RELEASED, Lines::RELEASED]);
    drop(controller);
    assert_eq!(lines(&chip.controller()), Lines::RELEASED, "a lost board and controller change nothing");
    let line = chip.line();
    assert_eq!(line.receive().unwrap().0, Lines::RELEASED, "a board that comes back learns the state");
}

fn spi(bus: &Link<Transaction, BusReply>, select: u8, out: &[u8], read: u16) -> Vec<u8> {
    let reply = bus.call(&Transaction::Spi { select, out: out.to_vec(), read }, &[]).unwrap();
    let BusReply::Data { bytes, acknowledged: true } = reply else { panic!("{reply:?}") };
    bytes
}

/// What flashrom does to a flash: who are you, erase, program, and look whether it helped.
fn flashrom(bus: &Link<Transaction, BusReply>, select: u8, at: [u8; 3]) {
    let command = |opcode: u8| [&[opcode][..], &at].concat();
    assert_eq!(spi(bus, select, &[0x9f], 2), [0xef, 0x40]);
    let before = spi(bus, select, &command(0x03), 64);
    for change in [command(0x20), [command(0x02), vec![0; 64]].concat(), vec![0x01, 0]] {
        spi(bus, select, &[0x06], 0);
        assert_eq!(spi(bus, select, &[0x05], 1), [2], "write enable");
        spi(bus, select, &change, 0);
        assert_eq!(spi(bus, select, &[0x05], 1), [0], "done, as far as a master can see");
    }
    assert!(before.iter().any(|byte| ![0, 0xff].contains(byte)));
    assert_eq!(spi(bus, select, &command(0x03), 64), before);
}

#[test]
fn masters_write_nothing_with_and_without_a_controller_and_the_next_one_hears_of_it() {
    let chip = Chip::start();
    let (cpu, bmc) = (chip.bus("cpu.sock"), chip.bus("bmc.sock"));
    let controller = chip.controller();
    let board = chip.board(4);
    release_all(&controller, &hash(&image(1)));
    board.join().unwrap();
    // The processors' code begins where their variables end.
    let [.., high, middle, low] = (VARIABLES_LENGTH + 4096).to_be_bytes();
    let code = [high, middle, low];
    flashrom(&cpu, 0, code);
    let first = events(&controller, 0).last().unwrap().seq;
    drop(controller);

    // Nobody watches.
    flashrom(&cpu, 0, code);
    flashrom(&bmc, 1, [0, 8, 0]);
    assert_eq!(spi(&bmc, 0, &[0x9f], 3), [0xff; 3], "each has its own");
    let write = Transaction::I2c { address: 0x20, out: vec![2, 7], read: 0 };
    let nack = bmc.call(&write, &[]).unwrap();
    assert_eq!(nack, BusReply::Data { bytes: vec![], acknowledged: false });
    let read = Transaction::I2c { address: 0x20, out: vec![0], read: 3 };
    let told = bmc.call(&read, &[]).unwrap();
    assert_eq!(told, BusReply::Data { bytes: vec![b'A', 1, 0], acknowledged: true });
    let long = bmc.call(&Transaction::I2c { address: 0x20, out: vec![0], read: 4097 }, &[]).unwrap();
    assert!(matches!(long, BusReply::Fault(fault) if fault.code == "chip.transaction"));

    let controller = chip.controller();
    assert_eq!(lines(&controller), Lines::RELEASED, "what was let go stays so");
    let told = events(&controller, first);
    let writes = |master, target| {
        let of = |event: &&Event| matches!(event.what, EventKind::WriteRefused(a) if (a.master, a.target) == (master, target));
        told.iter().filter(of).count()
    };
    for (master, target) in [
        (Master::Cpu, Target::Code),
        (Master::Cpu, Target::Registers),
        (Master::Bmc, Target::Bmc),
        (Master::Bmc, Target::Registers),
        (Master::Bmc, Target::ResetController),
    ] {
        assert_eq!(writes(master, target), 1, "{master:?} {target:?}: {told:?}");
    }
    assert!(
        told.iter().any(|event| matches!(event.what, EventKind::ReadRefused(a) if a.target == Target::Code))
    );
    assert_eq!(fs::read(chip.path("code")).unwrap(), image(1));
    assert_eq!(fs::read(chip.path("bmc")).unwrap(), [0x33; BMC_LENGTH]);
}

#[test]
fn what_is_no_request_is_refused_and_the_chip_goes_on() {
    let chip = Chip::start();
    let link: Link<serde_json::Value, Reply> = Link::new(chip.controller().into());
    let reply = link.call(&serde_json::json!({"release": {"line": 7}}), &[]).unwrap();
    refused(reply, "chip.request");
    // A second controller is turned away.
    assert!(chip.another_controller().call(&Request::Status, &[]).is_err());
    let mut hostile = UnixStream::connect(chip.path("nbd.sock")).unwrap();
    hostile.write_all(&[0xff; 4096]).unwrap();
    let mut rest = Vec::new();
    hostile.read_to_end(&mut rest).unwrap_or_default();
    assert_eq!(lines(&Link::new(link.into())), Lines::HELD);
}
