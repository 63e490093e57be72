//! One end of a private socket.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        accept_with, bind, listen, recvmsg, sendmsg, socket_with, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most file descriptors beside one message.
pub const MAX_FDS: usize = 4;

/// A refusal or failure that is told to the other end: a stable code, and a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Stable, for programs: `volume.busy`.
    pub code: String,
    /// For people; no internal detail.
    pub message: String,
}

impl Fault {
    /// Makes a fault.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end is gone.
    #[error("the other end of the private socket has closed")]
    Closed,
    /// The system refused.
    #[error("private socket: {0}")]
    Io(#[from] Errno),
    /// Not a message of this link.
    #[error("the other end sent what is no message of this link: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Longer than [`MAX_MESSAGE`], or more descriptors than [`MAX_FDS`].
    #[error("the message is longer than {MAX_MESSAGE} bytes or carries more than {MAX_FDS} descriptors")]
    TooLong,
}

/// One end of a private socket that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Link<S, R> {
    fd: OwnedFd,
    kinds: std::marker::PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Link<S, R> {
    /// Takes a connected `SOCK_SEQPACKET` socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, kinds: std::marker::PhantomData }
    }

    /// A connected pair: one end sends `S`, the other sends `R`.
    pub fn pair() -> Result<(Self, Link<R, S>), LinkError>
    where
        R: Serialize,
        S: DeserializeOwned,
    {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(a), Link::new(b)))
    }

    /// Sends one message with descriptors beside it.
    pub fn send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(message).map_err(LinkError::Malformed)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(LinkError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(LinkError::TooLong);
        }
        loop {
            match sendmsg(&self.fd, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one message and its descriptors; waits for it.
    pub fn receive(&self) -> Result<(R, Vec<OwnedFd>), LinkError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if got.bytes == 0 {
            return Err(LinkError::Closed);
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(LinkError::TooLong);
        }
        let message = serde_json::from_slice(&bytes[..got.bytes]).map_err(LinkError::Malformed)?;
        Ok((message, fds))
    }

    /// Sends a request and waits for its reply.
    pub fn call(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<R, LinkError> {
        self.send(message, fds)?;
        Ok(self.receive()?.0)
    }
}

impl<S, R> AsFd for Link<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, R> From<Link<S, R>> for OwnedFd {
    fn from(link: Link<S, R>) -> OwnedFd {
        link.fd
    }
}

/// A private socket that waits for its one caller, at a path that only its owner can reach.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds a listening socket at `path`, which must not exist; its folder must be private (mode 0700).
    pub fn bind(path: &Path) -> Result<Self, LinkError> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bind(&fd, &SocketAddrUnix::new(path)?)?;
        listen(&fd, 1)?;
        Ok(Self(fd))
    }

    /// Waits for the next caller.
    pub fn accept<S: Serialize, R: DeserializeOwned>(&self) -> Result<Link<S, R>, LinkError> {
        Ok(Link::new(accept_with(&self.0, SocketFlags::CLOEXEC)?))
    }
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Connects to the private socket at `path`.
pub fn connect<S: Serialize, R: DeserializeOwned>(path: &Path) -> Result<Link<S, R>, LinkError> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(Link::new(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{Reply, Request};
    use serde_json::json;
    use std::{fs::File, io::Read};

    #[test]
    fn a_request_and_its_descriptor_arrive_and_are_answered() {
        let (caller, callee) = Link::<Request, Reply>::pair().unwrap();
        let answer = std::thread::spawn(move || {
            let (request, mut fds) = callee.receive().unwrap();
            assert!(matches!(request, Request::Hello));
            let mut text = String::new();
            File::from(fds.remove(0)).take(9).read_to_string(&mut text).unwrap();
            callee.send(&Reply::Fault(Fault::new("test.code", text)), &[]).unwrap();
        });
        let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        let Reply::Fault(fault) = caller.call(&Request::Hello, &[file.as_fd()]).unwrap() else { panic!() };
        assert_eq!((fault.code.as_str(), fault.message.as_str()), ("test.code", "[package]"));
        answer.join().unwrap();
        assert!(matches!(caller.call(&Request::Hello, &[]), Err(LinkError::Closed)));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (caller, callee) = Link::<serde_json::Value, Reply>::pair().unwrap();
        let callee: Link<Reply, Request> = Link::new(callee.into());
        for value in [
            json!("dance"),
            json!(7),
            json!({"detach": {"volume": "vol-0123456789abcdef0", "force": true, "extra": 1}}),
        ] {
            caller.send(&value, &[]).unwrap();
            assert!(matches!(callee.receive(), Err(LinkError::Malformed(_))), "{value}");
        }
        let long = json!("x".repeat(MAX_MESSAGE));
        assert!(matches!(caller.send(&long, &[]), Err(LinkError::TooLong)));
    }
}
