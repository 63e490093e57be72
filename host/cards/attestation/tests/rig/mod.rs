//! The card's process, its controller's and its authority's parts played here, and a small driver in a guest's place.
#![allow(dead_code, reason = "each test takes what it needs")]

use guest_memory::{DmaMap, GuestMemory, Sealing, memfd};
use ids::{HostId, InstanceId};
use nsm::{Chain, HostKey, Request, Response};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair},
};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};
use vfio_user::{
    Client,
    pci::{BAR0, CONFIG, MSIX},
};
use wire::{
    Link,
    attestation::{Attach, Certificate, Extension, InstanceStatus, Reply, Request as Control},
};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn instance(number: u128) -> InstanceId {
    InstanceId::from_random(number)
}

pub(crate) fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

/// An authority and a host that it has certified.
pub(crate) struct Host {
    pub(crate) authority: pki::Attestation,
    key: HostKey,
    chain: Chain,
    _folder: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = pki::Attestation::open_or_create(folder.path()).unwrap();
        let key = HostKey::derive(&[5; 32]).unwrap();
        let pem = authority.issue(&key.request().unwrap(), &HostId::from_random(1), DAY).unwrap();
        Self { authority, key, chain: Chain::from_pem(&pem).unwrap(), _folder: folder }
    }

    /// The root's certificate, DER.
    pub(crate) fn root(&self) -> &[u8] {
        self.chain.certificates().last().unwrap()
    }

    pub(crate) fn certify(&self, instance: &InstanceId, card: &[u8]) -> Vec<Certificate> {
        let chain = self.key.certify(&self.chain, instance, card, now()).unwrap();
        chain.certificates().iter().cloned().map(Certificate).collect()
    }
}

/// The card's process.
pub(crate) struct Card {
    pub(crate) child: Child,
    pub(crate) control: Link<Control, Reply>,
    pub(crate) public_key: Vec<u8>,
}

impl Card {
    pub(crate) fn start() -> Self {
        let (control, theirs) = Link::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_azote-attestation-card"));
        command.stdin(Stdio::from(OwnedFd::from(theirs))).env("RUST_LOG", "error");
        let child = command.spawn().unwrap();
        let Reply::Hello { public_key } = control.call(&Control::Hello, &[]).unwrap() else { panic!() };
        Self { child, control, public_key }
    }

    /// `done`, or the code of the refusal.
    pub(crate) fn ask(&self, request: &Control, fds: &[&OwnedFd]) -> String {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match self.control.call(request, &fds).unwrap() {
            Reply::Done => "done".to_owned(),
            Reply::Fault(fault) => fault.code,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attach(&self, host: &Host, instance: &InstanceId, registers: &[nsm::Extension]) -> String {
        self.ask(&Control::Attach(attach(instance, registers, host.certify(instance, &self.public_key))), &[])
    }

    /// Starts the instance's machine.
    pub(crate) fn boot(&self, instance: &InstanceId) -> Guest {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        assert_eq!(self.ask(&Control::Connect { instance: instance.clone() }, &[&theirs]), "done");
        Guest::boot(Client::new(ours).unwrap())
    }

    pub(crate) fn status(&self) -> Vec<InstanceStatus> {
        match self.control.call(&Control::Status, &[]).unwrap() {
            Reply::Status { instances } => instances,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn proc_status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn attach(instance: &InstanceId, registers: &[nsm::Extension], chain: Vec<Certificate>) -> Attach {
    let register = |one: &nsm::Extension| Extension { register: one.register, data: one.data.clone() };
    Attach { instance: instance.clone(), registers: registers.iter().map(register).collect(), chain }
}

/// A listening socket at `path`.
pub(crate) fn listener(path: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, 1).unwrap();
    socket
}

const MEMORY: u64 = 1 << 20;
/// Where things are in the guest's memory.
const DESCRIPTORS: u64 = 0;
pub(crate) const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x3000;
const RESPONSE: u64 = 0x5000;
const SIZE: u16 = 4;

/// A guest with its driver.
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) memory: GuestMemory,
    interrupt: OwnedFd,
    sent: u16,
}

impl Guest {
    pub(crate) fn boot(mut client: Client) -> Self {
        let file = memfd(MEMORY).unwrap();
        let map = DmaMap { iova: 0, len: MEMORY, offset: 0, readable: true, writable: true };
        client.dma_map(map, Some(file.as_fd())).unwrap();
        let mut memory = GuestMemory::new(Sealing::Required);
        memory.map(map, Some(file)).unwrap();
        client.write(CONFIG, 4, &[6, 0]).unwrap();
        let interrupt = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let nobody = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        client.set_eventfds(MSIX, 0, &[nobody.as_fd(), interrupt.as_fd()]).unwrap();
        let mut guest = Self { client, memory, interrupt, sent: 0 };
        guest.start();
        guest
    }

    /// Resets the device and takes it into use, as a driver does that is loaded again.
    pub(crate) fn start(&mut self) {
        self.prepare();
        self.set(0x14, &[0xf]);
    }

    /// The same, without being ready.
    pub(crate) fn prepare(&mut self) {
        self.memory.write(0, &[0; 0x8000]).unwrap();
        self.sent = 0;
        self.set(0x14, &[0]);
        self.set(0x14, &[3]);
        self.set(0x08, &1u32.to_le_bytes());
        self.set(0x0c, &3u32.to_le_bytes());
        self.set(0x14, &[0xb]);
        assert_eq!(self.status(), 0xb);
        self.set(0x16, &[0, 0]);
        self.set(0x18, &SIZE.to_le_bytes());
        self.set(0x1a, &[1, 0]);
        for (at, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
            self.set(at, &address.to_le_bytes());
        }
        self.set(0x1c, &[1, 0]);
    }

    pub(crate) fn set(&mut self, at: u64, value: &[u8]) {
        self.client.write(BAR0, at, value).unwrap();
    }

    pub(crate) fn status(&mut self) -> u8 {
        let mut status = [0];
        self.client.read(BAR0, 0x14, &mut status).unwrap();
        status[0]
    }

    pub(crate) fn descriptor(&self, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write(DESCRIPTORS + 16 * index, &bytes).unwrap();
    }

    /// Makes the buffers that begin with these descriptors available.
    pub(crate) fn offer(&mut self, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(self.sent % SIZE);
            self.memory.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes()).unwrap();
            self.sent = self.sent.wrapping_add(1);
        }
        self.memory.store_u16(AVAILABLE + 2, self.sent).unwrap();
        self.client.write(BAR0, 0x1000, &[0, 0]).unwrap();
    }

    /// Waits until all buffers were given back; gives the bytes in the last one. None if that does not happen.
    pub(crate) fn answer(&mut self) -> Option<Vec<u8>> {
        let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        while self.memory.load_u16(USED + 2).unwrap() != self.sent {
            if poll(&mut [PollFd::new(&self.interrupt, PollFlags::IN)], Some(&patience)).unwrap() == 0 {
                return None;
            }
            let _ = rustix::io::read(&self.interrupt, &mut [0; 8]);
        }
        let entry = |nth: u16| {
            let mut bytes = [0; 8];
            let slot = u64::from(self.sent.wrapping_sub(nth) % SIZE);
            self.memory.read(USED + 4 + 8 * slot, &mut bytes).unwrap();
            let [id, length] =
                [&bytes[..4], &bytes[4..]].map(|half| u32::from_le_bytes(half.try_into().unwrap()));
            (id, usize::try_from(length).unwrap())
        };
        assert_eq!((entry(2), entry(1).0), ((0, 0), 1), "the request, then the answer");
        let mut bytes = vec![0; entry(1).1];
        self.memory.read(RESPONSE, &mut bytes).unwrap();
        Some(bytes)
    }

    /// Sends the bytes of a request as the kernel's driver does it.
    pub(crate) fn send(&mut self, request: &[u8]) {
        self.memory.write(REQUEST, request).unwrap();
        self.descriptor(0, REQUEST, u32::try_from(request.len()).unwrap(), 0, 0);
        self.descriptor(1, RESPONSE, 0x3000, 2, 0);
        self.offer(&[0, 1]);
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        let mut bytes = Vec::new();
        ciborium::into_writer(request, &mut bytes).unwrap();
        self.send(&bytes);
        ciborium::from_reader(self.answer().unwrap().as_slice()).unwrap()
    }

    pub(crate) fn register(&mut self, index: u16) -> (bool, Vec<u8>) {
        match self.ask(&Request::DescribePCR { index }) {
            Response::DescribePCR { lock, data } => (lock, data.into_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn document(&mut self, nonce: &[u8]) -> Vec<u8> {
        let nonce = Some(nonce.to_vec().into());
        match self.ask(&Request::Attestation { user_data: None, nonce, public_key: None }) {
            Response::Attestation { document } => document.into_vec(),
            other => panic!("{other:?}"),
        }
    }
}
