//! Received bytes and descriptors, cut into messages.

use crate::{
    message::{HEADER, Header, MAX_FDS, MAX_MESSAGE},
    session::SessionError,
};
use std::{collections::VecDeque, os::fd::OwnedFd};
use zerocopy::FromBytes;

/// Room for the longest message and, most of the time, hundreds of short ones.
const CAPACITY: usize = 2 * 64 * 1024;

/// What is at the front.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// No whole message yet.
    Partial,
    /// A whole message.
    Message,
    /// One longer than [`MAX_MESSAGE`]; its payload was dropped as it came.
    TooLong(Header),
}

pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    head: usize,
    tail: usize,
    /// Position of `head` in the stream.
    position: u64,
    /// Descriptors by the stream position of the message that they belong to, oldest first.
    fds: VecDeque<(u64, Vec<OwnedFd>)>,
    /// A message that is too long, and how much of it is still to come.
    skipping: Option<(Header, usize)>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        let bytes = vec![0; CAPACITY].into_boxed_slice();
        Self { bytes, head: 0, tail: 0, position: 0, fds: VecDeque::new(), skipping: None }
    }

    /// Where the next bytes go; never empty after [`Front::Partial`].
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.head == self.tail || (self.head > 0 && self.tail > CAPACITY / 2) {
            self.bytes.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        self.bytes.get_mut(self.tail..).unwrap_or_default()
    }

    /// `len` bytes were put at the front of [`space`](Self::space), and these descriptors came with the last of them.
    ///
    /// A read from a Unix socket never goes on past data that carries descriptors, so they belong to the last
    /// message that has begun.
    pub(crate) fn received(&mut self, len: usize, fds: Vec<OwnedFd>) {
        self.tail = (self.tail + len).min(CAPACITY);
        let Some(owner) = (!fds.is_empty()).then(|| self.last_begun()).flatten() else { return };
        match self.fds.back_mut() {
            Some((position, there)) if *position == owner => there.extend(fds),
            _ => self.fds.push_back((owner, fds)),
        }
        if let Some((_, there)) = self.fds.back_mut() {
            // More than was negotiated; closed here, missed by the message's own check.
            there.truncate(MAX_FDS);
        }
    }

    /// Stream position of the last message that has begun; `None` for one that is being skipped.
    fn last_begun(&self) -> Option<u64> {
        let mut rest = self.bytes.get(self.head..self.tail)?;
        let mut position = self.position;
        if let Some((_, left)) = self.skipping {
            rest = rest.get(left..).filter(|rest| !rest.is_empty())?;
            position += left as u64;
        }
        while let Ok((header, _)) = Header::read_from_prefix(rest) {
            match rest.get(header.size as usize..) {
                Some(after) if header.size as usize >= HEADER && !after.is_empty() => rest = after,
                _ => break,
            }
            position += u64::from(header.size);
        }
        Some(position)
    }

    /// Looks at the front. A message stays there until [`consume`](Self::consume).
    pub(crate) fn front(&mut self) -> Result<Front, SessionError> {
        let there = self.tail - self.head;
        if self.skipping.is_none() {
            let Some((header, _)) = self.header() else { return Ok(Front::Partial) };
            let size = header.size as usize;
            match size {
                _ if size < HEADER => return Err(SessionError::OutOfStep(header.size)),
                ..=MAX_MESSAGE if size <= there => return Ok(Front::Message),
                ..=MAX_MESSAGE => return Ok(Front::Partial),
                _ => self.skipping = Some((header, size)),
            }
        }
        let Some((header, left)) = &mut self.skipping else { return Ok(Front::Partial) };
        let dropped = there.min(*left);
        *left -= dropped;
        let front = if *left == 0 { Front::TooLong(*header) } else { Front::Partial };
        self.advance(dropped);
        Ok(front)
    }

    fn header(&self) -> Option<(Header, &[u8])> {
        Header::read_from_prefix(self.bytes.get(self.head..self.tail)?).ok()
    }

    /// The message at the front, after [`Front::Message`].
    pub(crate) fn message(&self) -> Option<(Header, &[u8])> {
        let (header, rest) = self.header()?;
        Some((header, rest.get(..(header.size as usize).checked_sub(HEADER)?)?))
    }

    /// Descriptors of the message at the front.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        let at_front = self.fds.pop_front_if(|(position, _)| *position == self.position);
        at_front.map(|(_, fds)| fds).unwrap_or_default()
    }

    /// Done with the message at the front, after anything but [`Front::Partial`].
    pub(crate) fn consume(&mut self) {
        if self.skipping.take().is_none()
            && let Some((_, payload)) = self.message()
        {
            self.advance(HEADER + payload.len());
        }
    }

    fn advance(&mut self, len: usize) {
        self.head += len;
        self.position += len as u64;
        while self.fds.pop_front_if(|(position, _)| *position < self.position).is_some() {}
    }

    /// No message has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail && self.skipping.is_none()
    }
}
