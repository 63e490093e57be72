//! The main board's connections to its flash: QEMU opens one per region, and again after each start.

use crate::flash::FlashFiles;
use chip_core::{Chip, Flash, Master, Refusal, Region};
use nbd::{Errno, Export, Request, Session};
use rustix::event::PollFlags;

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// In the order of the exports.
const REGIONS: [(Region, &str); 2] = [(Region::Code(Master::Cpu), "code"), (Region::Variables, "variables")];
/// Requests of one connection that are served before the others get their turn.
const TURN: usize = 16;

/// One connection. Holds at most one read of input beyond a request, and one reply.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    session: Session,
    output: Vec<u8>,
    sent: usize,
    /// Its turn ended with requests left.
    busy: bool,
    finished: bool,
}

impl Client {
    pub(crate) fn new(stream: UnixStream, flash: &FlashFiles) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let exports = REGIONS
            .map(|(region, name)| Export { name: name.to_owned(), size: flash.served(region).len() as u64 });
        let session = Session::new(exports.into());
        Ok(Self { stream, session, output: Vec::new(), sent: 0, busy: true, finished: false })
    }

    /// What to wait for.
    pub(crate) fn events(&self) -> PollFlags {
        if self.busy || self.sent < self.output.len() { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Does what can be done without waiting. Gives `false` when the connection is over.
    pub(crate) fn turn(&mut self, chip: &mut Chip<FlashFiles>) -> bool {
        self.busy = false;
        match self.serve(chip) {
            Ok(()) => {
                self.busy = true;
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// An error ends the connection, except that it would have to wait.
    fn serve(&mut self, chip: &mut Chip<FlashFiles>) -> io::Result<()> {
        for _ in 0..TURN {
            // One reply at a time, so a client that does not read cannot make the chip store more.
            while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
                self.sent += self.stream.write(rest)?;
            }
            if self.finished {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            let request = self.session.request();
            match request {
                Ok(Some(request)) => self.answer(request, chip),
                Ok(None) => {}
                Err(violation) => {
                    tracing::warn!(%violation, "closing a connection to the flash");
                    self.finished = true;
                }
            }
            self.output = self.session.take_output();
            self.sent = 0;
            if self.output.is_empty() && !self.finished {
                let mut bytes = [0; 64 * 1024];
                match self.stream.read(&mut bytes)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    count => self.session.feed(bytes.get(..count).unwrap_or_default()),
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, chip: &mut Chip<FlashFiles>) {
        let region = self.session.export().and_then(|export| REGIONS.get(export));
        let Some(&(region, _)) = region else {
            self.finished = true;
            return;
        };
        match request {
            Request::Read { cookie, offset, length } => {
                let bytes = chip.flash().read(region, offset, length).ok_or(Errno::Invalid);
                self.session.reply(cookie, bytes);
            }
            Request::Write { cookie, offset, data } => {
                let outcome = chip.map_write(region, offset, &data).map_err(|refusal| match refusal {
                    Refusal::Write => Errno::Perm,
                    _ => Errno::Io,
                });
                self.session.reply(cookie, outcome.map(|()| &[][..]));
            }
            // Nothing that the board may write is meant to last.
            Request::Flush { cookie } => self.session.reply(cookie, Ok(&[])),
            Request::Disconnect => self.finished = true,
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
