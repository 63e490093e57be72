//! A real volume card in its own process, its controller's part played here.

use crate::Error;
use ids::{HostId, VolumeId};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use seal::{Context, VolumeKey, seal};
use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
use wire::{
    Link,
    card::{Attach, Reply, Request, VolumeStatus},
};
use xts::{SECTOR, Xts};

/// How much is encrypted at a time.
const PIECE: usize = 1 << 20;

/// A card with its volumes in a folder of its own; all gone when dropped.
pub struct Card {
    child: Child,
    control: Link<Request, Reply>,
    public_key: Vec<u8>,
    folder: TempDir,
    volumes: u128,
}

impl Card {
    /// Starts `program`, the card's binary.
    pub fn start(program: &Path) -> Result<Self, Error> {
        let (control, theirs) = Link::<Request, Reply>::pair()?;
        let mut command = Command::new(program);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let child = command.env("RUST_LOG", "error").spawn().map_err(Error::start(program))?;
        let folder = tempfile::Builder::new().prefix("azote-guest-").tempdir()?;
        let mut card = Self { child, control, public_key: Vec::new(), folder, volumes: 0 };
        match card.control.call(&Request::Hello, &[])? {
            Reply::Hello { public_key } => card.public_key = public_key,
            other => return Err(Error::Unexpected(format!("{other:?}"))),
        }
        Ok(card)
    }

    /// Makes a volume of `size` bytes that begins with `content`, and connects to its function.
    pub fn volume(&mut self, size: u64, content: &[u8]) -> Result<OwnedFd, Error> {
        self.volumes += 1;
        let volume = VolumeId::from_random(self.volumes);
        let host = HostId::from_random(1);
        let key = VolumeKey::generate().map_err(|error| Error::Unexpected(error.to_string()))?;
        let context = Context { host: host.clone(), volume: volume.clone() };
        let sealed_key =
            seal(&self.public_key, &context, &key).map_err(|error| Error::Unexpected(error.to_string()))?;
        let image = self.folder.path().join(format!("{volume}.img"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(image)?;
        file.set_len(size)?;
        encrypt(&key, content, &file)?;
        let socket = self.folder.path().join(format!("{volume}.sock"));
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&listener, &SocketAddrUnix::new(&socket)?)?;
        listen(&listener, 1)?;
        let attach = Attach { host, volume, device_name: "/dev/sdf".to_owned(), size, sealed_key };
        match self.control.call(&Request::Attach(attach), &[file.as_fd(), listener.as_fd()])? {
            Reply::Done => {}
            Reply::Fault(fault) => return Err(fault.into()),
            other => return Err(Error::Unexpected(format!("{other:?}"))),
        }
        let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&ours, &SocketAddrUnix::new(&socket)?)?;
        Ok(ours)
    }

    /// The volumes, in the order in which they were made.
    pub fn status(&self) -> Result<Vec<VolumeStatus>, Error> {
        match self.control.call(&Request::Status, &[])? {
            Reply::Status { volumes } => Ok(volumes),
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }
}

/// Writes `content` as the volume's owner would: encrypted by sectors. What comes behind stays a hole.
fn encrypt(key: &VolumeKey, content: &[u8], file: &File) -> Result<(), Error> {
    let cipher = Xts::new(key).map_err(|error| Error::Unexpected(error.to_string()))?;
    for (number, piece) in content.chunks(PIECE).enumerate() {
        let (mut plain, mut secret) = (vec![0; piece.len().next_multiple_of(SECTOR)], Vec::new());
        plain[..piece.len()].copy_from_slice(piece);
        secret.resize(plain.len(), 0);
        let at = (number * PIECE) as u64;
        cipher.encrypt_slice(at / SECTOR as u64, &plain, &mut secret);
        file.write_all_at(&secret, at)?;
    }
    Ok(())
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
