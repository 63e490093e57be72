//! The server without its socket: bytes and descriptors in, calls of a device, bytes and descriptors out.

use crate::{
    answer::{Answer, State},
    device::Device,
    inbox::{Front, Inbox},
    message::{FLAG_REPLY, FLAG_TYPE},
    outbox::Outbox,
    session::SessionError,
};
use rustix::io::Errno;
use std::{os::fd::OwnedFd, sync::Arc};

/// What has to happen before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The client sends: wait until the socket is readable.
    Input,
    /// The client reads: wait until the socket is writable.
    Output,
    /// The device has [deferred](crate::DEFER) a call: step again when its DMA is done. Do not wait for input, it may be
    /// there already.
    Device,
    /// Nothing, there is more to do; other work may go first.
    Nothing,
}

/// The server's side of the protocol.
pub struct Engine {
    inbox: Inbox,
    outbox: Outbox,
    state: State,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// A new connection.
    pub fn new() -> Self {
        Self { inbox: Inbox::new(), outbox: Outbox::default(), state: State::default() }
    }

    /// Where received bytes go. Only to be filled when [`run`](Self::run) has said [`Wait::Input`].
    pub fn space(&mut self) -> &mut [u8] {
        self.inbox.space()
    }

    /// `len` bytes are in [`space`](Self::space); these descriptors came with the last of them.
    pub fn received(&mut self, len: usize, fds: Vec<OwnedFd>) {
        self.inbox.received(len, fds);
    }

    /// What to send, and the descriptors that go with its first byte.
    pub fn unsent(&self) -> (&[u8], &[Arc<OwnedFd>]) {
        self.outbox.unsent()
    }

    /// So many bytes of [`unsent`](Self::unsent) were sent.
    pub fn sent(&mut self, len: usize) {
        self.outbox.sent(len);
    }

    /// No message has begun to arrive.
    pub fn is_idle(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Handles messages in order until there is something to wait for. [`Wait::Output`] means: send, then run again.
    pub fn run(&mut self, device: &mut impl Device) -> Result<Wait, SessionError> {
        loop {
            if self.outbox.is_full() {
                return Ok(Wait::Output);
            }
            let answer = match self.inbox.front()? {
                Front::Partial => return Ok(Wait::Input),
                Front::TooLong(header) => {
                    self.outbox.reply(&header, |_| Err(Errno::MSGSIZE));
                    Answer::Given
                }
                Front::Message => self.answer(device)?,
            };
            match answer {
                Answer::Given => self.inbox.consume(),
                Answer::Deferred => return Ok(Wait::Device),
                Answer::AfterOutput => return Ok(Wait::Output),
            }
        }
    }

    fn answer(&mut self, device: &mut impl Device) -> Result<Answer, SessionError> {
        let fds = self.inbox.take_fds();
        match self.inbox.message() {
            // Nothing was asked of the client, so a reply answers nothing.
            Some((header, _)) if header.flags & FLAG_TYPE == FLAG_REPLY => Ok(Answer::Given),
            Some((header, payload)) => self.state.answer(&header, payload, fds, device, &mut self.outbox),
            None => Ok(Answer::Given),
        }
    }
}
