//! A volume card's real process, with encrypted volumes to attach.

use crate::rack::built;
use ids::{HostId, VolumeId};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use seal::{Context, VolumeKey, seal};
use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use wire::{
    Link,
    card::{Attach, Reply, Request},
};

pub struct Card {
    child: Child,
    link: Option<Link<Request, Reply>>,
    public_key: Vec<u8>,
    dir: PathBuf,
}

impl Drop for Card {
    fn drop(&mut self) {
        self.link = None;
        let _ = self.child.wait();
    }
}

impl Card {
    /// Starts a card; the volumes' files and sockets will be in `dir`.
    pub fn start(dir: &Path) -> Self {
        let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
        let mut command = Command::new(built("azote-volume-card"));
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().unwrap();
        drop(command);
        let Reply::Hello { public_key } = ours.call(&Request::Hello, &[]).unwrap() else {
            panic!("no hello")
        };
        Self { child, link: Some(ours), public_key, dir: dir.to_owned() }
    }

    fn call(&self, request: &Request, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let reply = self.link.as_ref().unwrap().call(request, &fds).unwrap();
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    /// Attaches a new encrypted volume of `size` bytes; its function's socket.
    pub fn attach(&self, volume: &VolumeId, size: u64) -> PathBuf {
        let host: HostId = "h-0123456789abcdef0".parse().unwrap();
        let context = Context { host: host.clone(), volume: volume.clone() };
        let sealed_key = seal(&self.public_key, &context, &VolumeKey::generate().unwrap()).unwrap();
        let data = self.dir.join(format!("{volume}.img"));
        let data = File::options().read(true).write(true).create_new(true).open(data).unwrap();
        data.set_len(size).unwrap();
        let path = self.dir.join(format!("{volume}.sock"));
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 1).unwrap();
        let device_name = "xvda".to_owned();
        let attach = Attach { host, volume: volume.clone(), device_name, size, sealed_key };
        self.call(&Request::Attach(attach), &[data.into(), socket]);
        path
    }

    pub fn detach(&self, volume: &VolumeId, force: bool) {
        self.call(&Request::Detach { volume: volume.clone(), force }, &[]);
    }
}

/// Writes `image` to a function as a guest would.
pub fn write(function: &Path, image: &[u8]) {
    let client = vfio_user::Client::new(UnixStream::connect(function).unwrap().into()).unwrap();
    let mut driver = nvme_host::start(client, 4 << 20, &nvme::driver::Options::default()).unwrap();
    let block = driver.block_size();
    for (piece, bytes) in (0_u64..).zip(image.chunks(1 << 20)) {
        driver.write(piece * (1 << 20) / block, bytes).unwrap();
    }
    driver.flush().unwrap();
    driver.shutdown().unwrap();
}
