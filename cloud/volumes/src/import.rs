//! Images written into volumes, through a volume card that is started for this alone.

use crate::Volume;
use ids::HostId;
use nvme::driver::Options;
use nvme_host::{ConnectError, FunctionDriver};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};
use wire::{
    Fault, Link, LinkError,
    card::{Attach, Reply, Request},
};

/// Memory shared with the card: queues and buffers.
const SHARED: u64 = 4 << 20;
/// Bytes of an image written at once.
const PIECE: usize = 1 << 20;

/// Why an image was not written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The card could not be started, or a file not read.
    #[error("image import: {0}")]
    Io(#[from] io::Error),
    /// The card's private socket.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The card refused.
    #[error(transparent)]
    Card(#[from] Fault),
    /// The card answered what is no answer.
    #[error("the volume card answered {0}: is it of this release?")]
    Answer(&'static str),
    /// The function does not work.
    #[error(transparent)]
    Function(#[from] ConnectError),
    /// A write failed.
    #[error(transparent)]
    Write(#[from] nvme::driver::Error),
    /// The image does not fit.
    #[error("the image has {image} bytes, the volume only {volume}: make a larger volume")]
    TooLarge {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the volume.
        volume: u64,
    },
}

impl ImportError {
    /// The stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Card(fault) => &fault.code,
            Self::TooLarge { .. } => "volume.size",
            _ => "volume.import",
        }
    }
}

/// A volume card of the storage side's own. It ends when this is dropped, and its keys with it.
pub struct Importer {
    card: Child,
    link: Option<Link<Request, Reply>>,
    public_key: [u8; 32],
}

impl Importer {
    /// Starts a card from the program at `card`.
    pub fn start(card: &Path) -> Result<Self, ImportError> {
        let (ours, theirs) = Link::<Request, Reply>::pair()?;
        let theirs: OwnedFd = theirs.into();
        let mut command = Command::new(card);
        command
            .args(["--control-fd", "0"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let card = command.spawn()?;
        drop(command);
        let mut importer = Self { card, link: Some(ours), public_key: [0; 32] };
        let Reply::Hello { public_key } = importer.call(&Request::Hello, &[])? else {
            return Err(ImportError::Answer("no greeting"));
        };
        importer.public_key =
            public_key.try_into().map_err(|_| ImportError::Answer("a key of another length"))?;
        Ok(importer)
    }

    /// The public key to which the volume key must be sealed.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    fn call(&self, request: &Request, fds: &[OwnedFd]) -> Result<Reply, ImportError> {
        let link = self.link.as_ref().ok_or(LinkError::Closed)?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match link.call(request, &fds)? {
            Reply::Fault(fault) => Err(fault.into()),
            reply => Ok(reply),
        }
    }

    /// Writes `image` to the start of the volume whose ciphertext is in `data`, and makes it durable. `at` is told
    /// the bytes written and the bytes in all.
    pub fn write(
        &mut self,
        host: &HostId,
        volume: &Volume,
        data: File,
        sealed_key: Vec<u8>,
        image: File,
        at: &mut dyn FnMut(u64, u64),
    ) -> Result<(), ImportError> {
        let length = image.metadata()?.len();
        if length > volume.size {
            return Err(ImportError::TooLarge { image: length, volume: volume.size });
        }
        let (listener, driver_end) = function_socket()?;
        let attach = Attach {
            host: host.clone(),
            volume: volume.id.clone(),
            device_name: "import".to_owned(),
            size: volume.size,
            sealed_key,
        };
        self.call(&Request::Attach(attach), &[data.into(), listener])?;
        let client = vfio_user::Client::new(driver_end).map_err(ConnectError::Client)?;
        let mut driver = nvme_host::start(client, SHARED, &Options::default())?;
        copy(&mut driver, image, length, at)?;
        driver.shutdown()?;
        drop(driver);
        self.call(&Request::Detach { volume: volume.id.clone(), force: true }, &[])?;
        Ok(())
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        // The end of its private socket is the card's sign to go.
        self.link = None;
        let _ = self.card.wait();
    }
}

/// A listening socket for the card and our end, connected to it. Its name is the system's choice and in no folder.
fn function_socket() -> Result<(OwnedFd, OwnedFd), io::Error> {
    let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (listener, ours) = (socket()?, socket()?);
    bind(&listener, &rustix::net::SocketAddrUnix::new_unnamed())?;
    listen(&listener, 1)?;
    connect(&ours, &getsockname(&listener)?)?;
    Ok((listener, ours))
}

fn copy(
    driver: &mut FunctionDriver,
    mut image: File,
    length: u64,
    at: &mut dyn FnMut(u64, u64),
) -> Result<(), ImportError> {
    let block = driver.block_size();
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < length {
        let want = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        image.read_exact(&mut piece[..want])?;
        let whole = want.next_multiple_of(usize::try_from(block).unwrap_or(PIECE));
        piece[want..whole].fill(0);
        driver.write(done / block, &piece[..whole])?;
        done += want as u64;
        at(done, length);
    }
    driver.flush()?;
    Ok(())
}
