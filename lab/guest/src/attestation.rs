//! The attestation card as guests see it: Debian's next cloud kernel, whose own driver takes the card's function, and a
//! client of others' making. Once on the main board (QEMU), once under the hypervisor. The documents that come over
//! the console are left in a folder, for checkers that are others' too.

use crate::{
    Error,
    linux::{KERNEL, MODULES},
    nested::Machine,
    report::{Check, Line},
    rig::{Rig, Size, sealed},
    scenario::{self, Programs, row},
};
use ids::{HostId, InstanceId};
use nsm::{Bank, Chain, Extension, HostKey};
use parts::Parts;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};
use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};
use wire::{
    Link,
    attestation::{Attach, Certificate, Extension as Register, Reply, Request},
    hypervisor::{self, State},
};

/// The kernel's driver.
const DRIVER: &str = "kernel/drivers/misc/nsm.ko";
/// The client's program, and what it and the kernel need.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/init reboot=t";
const INITRD: &str = "initrd";
const MEMORY_MIB: u32 = 256;
/// The slot that the controller uses, above those of volumes.
const SLOT: u8 = ids::SLOTS + 1;
/// As many checks as the client makes.
const CHECKS: usize = 6;
const DAY: Duration = Duration::from_secs(86_400);
/// What the client asks for.
const NONCE: &[u8] = b"azote";
const ADDED: &[u8] = b"kernel";
const DOCUMENT: &str = "document.cose";
const LONGEST: usize = 16 * 1024;

fn instance() -> InstanceId {
    InstanceId::from_random(0x0a22_e5c5)
}

fn unexpected(error: impl std::fmt::Display) -> Error {
    Error::Unexpected(error.to_string())
}

/// A card with one instance, its controller's and its authority's parts played here.
struct Card {
    child: Child,
    control: Link<Request, Reply>,
    root: Vec<u8>,
    registers: Vec<Extension>,
}

impl Card {
    /// Starts the card; without `listener` the function waits for [`Card::connect`].
    fn start(program: &Path, registers: Vec<Extension>, listener: Option<&OwnedFd>) -> Result<Self, Error> {
        let (control, theirs) = Link::pair()?;
        let mut command = Command::new(program);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).env("RUST_LOG", "warn");
        let child = command.spawn().map_err(Error::start(program))?;
        let folder = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
        let authority = pki::Attestation::open_or_create(folder.path()).map_err(unexpected)?;
        let host = HostKey::derive(&[1; 32]).map_err(unexpected)?;
        let request = host.request().map_err(unexpected)?;
        let pem = authority.issue(&request, &HostId::from_random(1), DAY).map_err(unexpected)?;
        let chain = Chain::from_pem(&pem).map_err(unexpected)?;
        let root = chain.certificates().last().cloned().unwrap_or_default();
        let card = Self { child, control, root, registers };
        let public_key = match card.control.call(&Request::Hello, &[])? {
            Reply::Hello { public_key } => public_key,
            other => return Err(unexpected(format!("{other:?}"))),
        };
        let chain = host.certify(&chain, &instance(), &public_key, now()).map_err(unexpected)?;
        let register = |one: &Extension| Register { register: one.register, data: one.data.clone() };
        let attach = Attach {
            instance: instance(),
            registers: card.registers.iter().map(register).collect(),
            chain: chain.certificates().iter().cloned().map(Certificate).collect(),
        };
        card.ask(&Request::Attach(attach), listener)?;
        Ok(card)
    }

    fn ask(&self, request: &Request, fd: Option<&OwnedFd>) -> Result<(), Error> {
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        match self.control.call(request, &fds)? {
            Reply::Done => Ok(()),
            Reply::Fault(fault) => Err(fault.into()),
            other => Err(unexpected(format!("{other:?}"))),
        }
    }

    fn connect(&self) -> Result<OwnedFd, Error> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        self.ask(&Request::Connect { instance: instance() }, Some(&theirs))?;
        Ok(ours)
    }

    /// What a checker needs beside the document.
    fn expected(&self, module: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut bank = Bank::default();
        for Extension { register, data } in &self.registers {
            bank.extend(*register, data).map_err(unexpected)?;
        }
        bank.lock_first(nsm::LOCKED_AT_START).map_err(unexpected)?;
        for _ in 0..2 {
            bank.extend(16, ADDED).map_err(unexpected)?;
        }
        bank.lock(16).map_err(unexpected)?;
        let pcrs: BTreeMap<_, _> =
            bank.locked().map(|(index, value)| (index.to_string(), hex(value))).collect();
        let document =
            serde_json::json!({ "file": DOCUMENT, "module_id": module, "nonce": hex(NONCE), "pcrs": pcrs });
        let now = u64::try_from(now().as_millis()).unwrap_or(u64::MAX);
        let expected = serde_json::json!({ "now": now, "documents": [document] }).to_string();
        let files = [("root.der", self.root.clone()), ("expected.json", expected.into_bytes())];
        Ok(files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect())
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a guest said: checks, and files in pieces.
#[derive(Debug, Default)]
pub struct Told {
    /// The checks.
    pub checks: Vec<Check>,
    /// The files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Told {
    fn line(&mut self, line: &str) {
        if let Line::Check(check) = Line::parse(line) {
            self.checks.push(check);
            return;
        }
        let Some((name, digits)) = line.strip_prefix("file ").and_then(|rest| rest.split_once(' ')) else {
            return;
        };
        let known = ["root.der", "expected.json", DOCUMENT].contains(&name);
        let byte = |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let piece: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        let file = self.files.entry(name.to_owned()).or_default();
        if let (true, Some(piece)) = (known && file.len() < LONGEST, piece) {
            file.extend(piece);
        }
    }

    /// The files as lines, for whoever reads this program's output.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let pieces = |(name, content): (&String, &Vec<u8>)| {
            content.chunks(512).map(|piece| format!("file {name} {}", hex(piece))).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(pieces)
    }

    fn module(&self) -> &str {
        self.checks.iter().find(|check| check.name == "nsm-describe").map_or("", |check| &check.text)
    }

    fn is_whole(&self) -> bool {
        let good =
            |check: &&Check| check.name.starts_with("nsm-") && check.verdict == crate::report::Verdict::Ok;
        self.checks.iter().filter(good).count() == CHECKS && self.files.contains_key(DOCUMENT)
    }

    /// Leaves the files in `folder`.
    fn keep(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder)?;
        self.files.iter().try_for_each(|(name, content)| Ok(fs::write(folder.join(name), content)?))
    }
}

/// The initial file system of the guest.
fn machine<'a>(client: &'a [PathBuf], devices: &'a [String]) -> Machine<'a> {
    Machine {
        memory_mib: MEMORY_MIB,
        modules: &[DRIVER],
        words: "",
        devices,
        files: &[],
        programs: client,
        command: "/bin/nsm-client",
    }
}

/// On the main board: an emulated machine that connects to the card's socket.
pub fn board(
    programs: &Programs,
    client: &Path,
    folder: &Path,
    limit: Duration,
) -> Result<Vec<Check>, Error> {
    let parts = Parts::locate(&parts::default_dir())?.with_newer_kernel(&[DRIVER])?;
    let place = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
    let path = place.path().join("function.sock");
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    listen(&socket, 1)?;
    let registers = [nsm::of_board(&[8; 32]), nsm::of_instance(&instance()), host()].concat();
    let card = Card::start(&programs.attestation_card(), registers, Some(&socket))?;
    let function =
        serde_json::json!({ "driver": "vfio-user-pci", "socket": { "type": "unix", "path": path } });
    let devices = [
        "-object",
        &format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"),
        "-machine",
        "memory-backend=memory",
        "-device",
        &function.to_string(),
    ];
    let said = machine(&[client.to_owned()], &devices.map(str::to_owned)).run(&parts, limit)?;
    let mut told = Told::default();
    said.lines.iter().for_each(|line| told.line(line));
    told.files.extend(card.expected(told.module())?);
    told.keep(&folder.join("board"))?;
    let good = said.ended && told.is_whole();
    told.checks.push(row("attestation-board", good, said.text(good)));
    Ok(told.checks)
}

/// What a host says of itself here.
fn host() -> Vec<Extension> {
    nsm::of_host(Some(&[7; 32]), &[b'x'; 72 * 3])
}

/// Under the hypervisor, on this machine's `/dev/kvm`, with the kernel and the initial file system of `folder`.
pub fn here(programs: &Programs, folder: &Path, limit: Duration) -> Result<Told, Error> {
    let (kernel, initrd) = (fs::read(folder.join(KERNEL))?, fs::read(folder.join(INITRD))?);
    let registers =
        [nsm::of_machine(&kernel, COMMAND_LINE, Some(&initrd)), nsm::of_instance(&instance()), host()]
            .concat();
    let card = Card::start(&programs.attestation_card(), registers, None)?;
    let (kernel, initrd) = (sealed("kernel", &kernel)?, sealed("initrd", &initrd)?);
    let mut rig = Rig::start(&programs.hypervisor())?;
    let size = Size { cpus: 1, memory_mib: MEMORY_MIB.into() };
    rig.create(&size, COMMAND_LINE, &kernel, Some(&initrd))?;
    rig.ask(&hypervisor::Request::Attach { slot: SLOT }, &[&card.connect()?])?;
    rig.ask(&hypervisor::Request::Resume, &[])?;
    let (begun, mut told) = (Instant::now(), Told::default());
    loop {
        let state = rig.statistics()?.state;
        rig.lines()?.iter().for_each(|line| told.line(line));
        if state != State::Running || begun.elapsed() > limit {
            let good = state == State::Off && told.is_whole();
            let text = format!("{state:?} after {:.1} s", begun.elapsed().as_secs_f64());
            told.files.extend(card.expected(told.module())?);
            told.checks.push(row("attestation-machine", good, text));
            rig.stop()?;
            return Ok(told);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Under the hypervisor: directly where the processor has VMX or SVM, else in an emulated machine that has.
pub fn anywhere(
    programs: &Programs,
    client: &Path,
    folder: &Path,
    limit: Duration,
) -> Result<Vec<Check>, Error> {
    let parts = Parts::locate(&parts::default_dir())?;
    let newer = parts.with_newer_kernel(&[DRIVER])?;
    let files = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
    let initrd = files.path().join(INITRD);
    fs::write(&initrd, machine(&[client.to_owned()], &[]).archive(&newer)?)?;
    let (name, kernels) = scenario::virtualisation();
    let told = if kernels && scenario::missing().is_none() {
        fs::copy(newer.kernel(), files.path().join(KERNEL))?;
        here(programs, files.path(), limit)?
    } else {
        let machine = Machine {
            memory_mib: 1024,
            modules: &MODULES,
            words: "",
            devices: &[],
            files: &[(KERNEL, newer.kernel()), (INITRD, &initrd)],
            programs: &[std::env::current_exe()?, programs.hypervisor(), programs.attestation_card()],
            command: "/bin/azote-guest --programs /bin attestation --here /",
        };
        let said = machine.run(&parts, limit)?;
        let mut told = Told::default();
        said.lines.iter().for_each(|line| told.line(line));
        let good =
            said.ended && told.is_whole() && told.checks.iter().any(|row| row.name == "attestation-machine");
        let text = said.text(good);
        told.checks.push(row("attestation-nested", good, format!("emulated SVM, here is {name}: {text}")));
        told
    };
    told.keep(&folder.join("machine"))?;
    Ok(told.checks)
}
