//! Images written into volumes, through a volume card that is started for this alone.

use crate::Draft;
use ids::HostId;
use nvme::driver::Options;
use nvme_host::{ConnectError, FunctionDriver};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use wire::{
    Fault, Link, LinkError,
    card::{Attach, Reply, Request},
};

/// Memory shared with the card: queues and buffers.
const SHARED: u64 = 4 << 20;
/// How an image in QEMU's own format starts.
const QCOW2: &[u8] = b"QFI\xfb";
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
    /// Whoever watches the progress said so.
    #[error("stopped before the image was whole")]
    Stopped,
    /// A write failed.
    #[error(transparent)]
    Write(#[from] nvme::driver::Error),
    /// The image cannot be opened or read.
    #[error("{}: {reason}", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

impl ImportError {
    /// The stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Card(fault) => &fault.code,
            Self::Image { .. } => "volume.image",
            Self::Stopped => "volume.import-stopped",
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
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
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

    /// Writes `image` into the volume, and makes it durable. `at` is told the bytes written
    /// and the bytes in all, and says whether to go on.
    pub fn write(
        &mut self,
        host: &HostId,
        draft: &Draft<'_>,
        sealed_key: Vec<u8>,
        mut image: Image,
        at: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), ImportError> {
        let volume = draft.volume();
        let (listener, driver_end) = function_socket()?;
        let attach = Attach {
            host: host.clone(),
            volume: volume.id.clone(),
            device_name: "import".to_owned(),
            size: volume.size,
            sealed_key,
        };
        self.call(&Request::Attach(attach), &[draft.data()?.into(), listener])?;
        let client = vfio_user::Client::new(driver_end).map_err(ConnectError::Client)?;
        let mut driver = nvme_host::start(client, SHARED, &Options::default())?;
        image.copy(&mut driver, at)?;
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

/// A raw disk image.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Image {
    /// Opens a file or a block device with at least one byte in it that is not in another image format.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let wrong = |reason: String| ImportError::Image { path: path.to_owned(), reason };
        let system =
            |error: io::Error| wrong(format!("{error}: give a raw disk image that this user can read"));
        // Neither a pipe nor a device of another kind is opened: that could wait for ever, or do something.
        let kind = fs::metadata(path).map_err(system)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(wrong("neither a file nor a block device: give a raw disk image".to_owned()));
        }
        let mut file = File::open(path).map_err(system)?;
        let length = file.seek(SeekFrom::End(0)).map_err(system)?;
        if length == 0 {
            return Err(wrong("it is empty: give an image, or a --size for an empty volume".to_owned()));
        }
        let mut start = Vec::new();
        file.rewind().map_err(system)?;
        (&file).take(4).read_to_end(&mut start).map_err(system)?;
        if start == QCOW2 {
            let advice = "it is in qcow2 format: `qemu-img convert -O raw` makes a raw one".to_owned();
            return Err(wrong(advice));
        }
        file.rewind().map_err(system)?;
        Ok(Self { path: path.to_owned(), file, length })
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn copy(
        &mut self,
        driver: &mut FunctionDriver,
        at: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), ImportError> {
        let block = driver.block_size();
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        while done < self.length {
            let want = usize::try_from(self.length - done).unwrap_or(PIECE).min(PIECE);
            self.file.read_exact(&mut piece[..want]).map_err(|error| ImportError::Image {
                path: self.path.clone(),
                reason: format!("{error}: it must stay as it is while it is read"),
            })?;
            let whole = want.next_multiple_of(usize::try_from(block).unwrap_or(PIECE));
            piece[want..whole].fill(0);
            driver.write(done / block, &piece[..whole])?;
            done += want as u64;
            if !at(done, self.length) {
                return Err(ImportError::Stopped);
            }
        }
        driver.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_raw_image_is_refused_with_advice() {
        let scratch = tempfile::tempdir().unwrap();
        let [none, empty, qcow2, raw] =
            ["none", "empty", "qcow2", "raw"].map(|name| scratch.path().join(name));
        fs::write(&empty, "").unwrap();
        fs::write(&qcow2, b"QFI\xfb and so on").unwrap();
        fs::write(&raw, "abc").unwrap();
        let cases = [
            (none.as_path(), "can read"),
            (scratch.path(), "neither"),
            (Path::new("/dev/zero"), "neither"),
            (&empty, "--size"),
            (&qcow2, "qemu-img"),
        ];
        for (path, advice) in cases {
            let error = Image::open(path).unwrap_err();
            assert_eq!(error.code(), "volume.image");
            assert!(error.to_string().contains(advice), "{error}");
        }
        assert_eq!(Image::open(&raw).unwrap().length(), 3);
    }
}
