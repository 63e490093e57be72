//! Bytes and descriptors through a Unix stream socket.

use crate::message::MAX_FDS;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    time::{ClockId, clock_gettime},
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How soon a wait that was ended is over.
const SLICE: Duration = Duration::from_millis(10);

/// The socket of a connection. It closes when nobody holds it any more.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    ended: AtomicBool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, ended: AtomicBool::new(false) }
    }

    /// Ends all waiting for the other end, now and from now on, within some milliseconds: as if it were gone.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the other end is gone.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Waits for one of `events`, no longer than `patience`. In slices and by a clock that takes no system call:
    /// a confined process does it with `ppoll` alone.
    pub(crate) fn wait(&self, events: PollFlags, patience: Option<Duration>) -> Result<(), Errno> {
        let begun = now();
        loop {
            let passed = now().saturating_sub(begun);
            let left = patience.map_or(SLICE, |patience| patience.saturating_sub(passed));
            if self.ended.load(Ordering::Relaxed) {
                return Err(Errno::CONNRESET);
            }
            let slice = Timespec::try_from(left.min(SLICE)).map_err(|_| Errno::INVAL)?;
            match poll(&mut [PollFd::new(&self.fd, events)], Some(&slice)) {
                Ok(0) if left.is_zero() => return Err(Errno::AGAIN),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Time since some moment, in steps of some milliseconds.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::MonotonicCoarse)).unwrap_or_default()
}

pub(crate) struct Received {
    /// 0 at the end of the stream.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What is there; never waits.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let len = retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags))?.bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Received { len, fds })
}

/// As much as there is room for; never waits.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags))
}
