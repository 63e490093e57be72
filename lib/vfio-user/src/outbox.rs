//! Replies that are not sent yet.

use crate::{
    device::DEFER,
    message::{FLAG_ERROR, HEADER, Header},
};
use rustix::io::Errno;
use std::{os::fd::OwnedFd, sync::Arc};
use zerocopy::IntoBytes;

/// Replies are sent when there are this many bytes of them, or when there is nothing else to do.
const ENOUGH: usize = 64 * 1024;

#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte. Then no other reply may follow before all is sent.
    fds: Vec<Arc<OwnedFd>>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// No more replies until some are sent.
    pub(crate) fn is_full(&self) -> bool {
        !self.fds.is_empty() || self.bytes.len() >= ENOUGH
    }

    /// What to send next.
    pub(crate) fn unsent(&self) -> (&[u8], &[Arc<OwnedFd>]) {
        (self.bytes.get(self.sent..).unwrap_or_default(), &self.fds)
    }

    /// So many bytes were sent, with the descriptors.
    pub(crate) fn sent(&mut self, len: usize) {
        self.sent += len;
        if len > 0 {
            self.fds.clear();
        }
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Appends a reply whose payload `fill` makes, or an error reply if it fails. Nothing is appended if no reply
    /// is wanted, or if the device has deferred; then it returns false.
    pub(crate) fn reply(
        &mut self,
        request: &Header,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Errno>,
    ) -> bool {
        let start = self.bytes.len();
        let mut header = request.reply();
        self.bytes.extend_from_slice(header.as_bytes());
        let result = fill(&mut self.bytes);
        if let Err(errno) = result {
            self.bytes.truncate(start + HEADER);
            header.flags |= FLAG_ERROR;
            header.error = u32::try_from(errno.raw_os_error()).unwrap_or_default();
        }
        if result == Err(DEFER) || !request.wants_reply() {
            self.bytes.truncate(start);
            return result != Err(DEFER);
        }
        header.size = u32::try_from(self.bytes.len() - start).unwrap_or_default();
        if let Some(place) = self.bytes.get_mut(start..start + HEADER) {
            place.copy_from_slice(header.as_bytes());
        }
        true
    }

    /// Descriptors for the only reply there is, if there is one.
    pub(crate) fn attach(&mut self, fds: Vec<Arc<OwnedFd>>) {
        if !self.bytes.is_empty() {
            self.fds = fds;
        }
    }
}
