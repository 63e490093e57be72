//! The card's process, its controller's and its authority's parts played here.
#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]

#[path = "../guest/mod.rs"]
mod guest;

pub(crate) use guest::{AVAILABLE, Guest};

use ids::{HostId, InstanceId};
use nsm::{Chain, HostKey};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};
use vfio_user::Client;
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
