//! The server's end of one connection.

use crate::{
    device::Device,
    engine::{Engine, Wait},
    socket::{Received, receive, send},
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Reads per [`Session::step`], so that a busy client cannot keep a card from its other work.
const READS: usize = 16;

/// Why a session is over. Whatever it was, the card forgets the client's maps and eventfds and may accept again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The client closed the connection between messages.
    #[error("the client has closed the connection")]
    Closed,
    /// The client closed the connection in the middle of a message.
    #[error("the client has closed the connection in the middle of a message")]
    Truncated,
    /// The client said that a message is shorter than its own header.
    #[error("the client sent a message of {0} bytes, which is less than a header")]
    OutOfStep(u32),
    /// The client speaks another major version.
    #[error("the client speaks vfio-user {0}, this server speaks vfio-user 0")]
    Version(u16),
    /// The system refused.
    #[error("vfio-user socket: {0}")]
    Io(#[from] Errno),
}

/// One connected client, served without blocking.
///
/// The event loop of the card calls [`step`](Self::step) and then waits for what it says; the descriptor to wait on
/// is [`AsFd`].
///
/// A loop that waits for *changes* (`EPOLLET`, io_uring's multishot poll) must remember a hang-up: the kernel may
/// report it together with the last message, and [`step`](Self::step), which stops after a read that came back
/// short, has then not seen the end. Step once more after `POLLHUP` or `POLLRDHUP`, however the last step ended.
pub struct Session {
    socket: OwnedFd,
    engine: Engine,
}

impl Session {
    /// Takes a connected Unix stream socket. Its blocking mode does not matter.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, engine: Engine::new() }
    }

    /// Handles the messages that are there and sends the replies; says what to wait for before the next step.
    pub fn step(&mut self, device: &mut impl Device) -> Result<Wait, SessionError> {
        let mut drained = false;
        let mut reads = 0;
        loop {
            let wait = self.engine.run(device)?;
            if !self.flush()? {
                return Ok(Wait::Output);
            }
            match wait {
                Wait::Device => return Ok(Wait::Device),
                Wait::Input if drained => return Ok(Wait::Input),
                Wait::Input if reads == READS => return Ok(Wait::Nothing),
                Wait::Input => {}
                Wait::Output | Wait::Nothing => continue,
            }
            let space = self.engine.space();
            let room = space.len();
            match receive(self.socket.as_fd(), space) {
                Ok(Received { len: 0, .. }) if self.engine.is_idle() => return Err(SessionError::Closed),
                Ok(Received { len: 0, .. }) => return Err(SessionError::Truncated),
                Ok(Received { len, fds }) => {
                    // A read stops early only at descriptors or at the end of what is there.
                    drained = len < room && fds.is_empty();
                    self.engine.received(len, fds);
                }
                Err(Errno::AGAIN) => return Ok(Wait::Input),
                Err(Errno::CONNRESET) => return Err(SessionError::Closed),
                Err(errno) => return Err(errno.into()),
            }
            reads += 1;
        }
    }

    /// False if the socket takes no more.
    fn flush(&mut self) -> Result<bool, SessionError> {
        loop {
            let (bytes, fds) = self.engine.unsent();
            if bytes.is_empty() {
                return Ok(true);
            }
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match send(self.socket.as_fd(), bytes, &fds) {
                Ok(len) => self.engine.sent(len),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SessionError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
