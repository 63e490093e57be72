//! The sockets: one thread that waits for all of them, so nobody can hold up anybody else.

use crate::{board::Board, clients::Client, control, flash::FlashFiles};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
};
use security_chip::{Chip, Reset};
use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::Instant,
};
use wire::{
    Fault, Link, LinkError, Listener,
    chip::{Line, LineReply, Reply, Request},
};

/// QEMU opens two connections, and two more while an old one is still closing.
const MAX_CLIENTS: usize = 8;

/// A request of the controller that waits for the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Hold,
    Release,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Flash,
    Control,
    Line,
    Controller,
    Board,
    Client(usize),
}

/// The chip and everyone who is connected to it.
pub(crate) struct Server {
    chip: Chip<FlashFiles>,
    flash: UnixListener,
    control: Listener,
    line: Listener,
    controller: Option<Link<Reply, Request>>,
    board: Option<Board>,
    clients: Vec<Client>,
    wish: Option<Wish>,
}

impl Server {
    pub(crate) fn new(
        flash_files: FlashFiles,
        flash: UnixListener,
        control: Listener,
        line: Listener,
    ) -> io::Result<Self> {
        flash.set_nonblocking(true)?;
        ioctl_fionbio(&control, true)?;
        ioctl_fionbio(&line, true)?;
        let chip = Chip::new(flash_files);
        let (controller, board, clients, wish) = (None, None, Vec::new(), None);
        Ok(Self { chip, flash, control, line, controller, board, clients, wish })
    }

    /// Serves until the system refuses to wait.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Flash => self.accept_client(),
                    Source::Control => self.accept_controller(),
                    Source::Line => self.accept_board(),
                    Source::Controller => self.serve_controller(),
                    Source::Board => self.hear_board(),
                    Source::Client(index) => {
                        if let Some(client) = self.clients.get_mut(index)
                            && !client.turn(&mut self.chip)
                        {
                            // Those after it move up, and have their turn in the next round.
                            self.clients.remove(index);
                            if self.clients.is_empty() {
                                self.chip.board_stopped();
                            }
                            break;
                        }
                    }
                }
            }
            if self
                .board
                .as_ref()
                .and_then(Board::deadline)
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                self.lose_board();
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let (mut sources, mut fds) = (Vec::new(), Vec::new());
        let mut add = |source, fd| {
            sources.push(source);
            fds.push(fd);
        };
        if let Some(controller) = &self.controller {
            // One request at a time: while one waits for the board, only the end of the connection matters.
            let events = if self.wish.is_none() { PollFlags::IN } else { PollFlags::empty() };
            add(Source::Controller, PollFd::new(controller, events));
        }
        if let Some(board) = &self.board {
            add(Source::Board, PollFd::new(board, PollFlags::IN));
        }
        for (index, client) in self.clients.iter().enumerate() {
            add(Source::Client(index), PollFd::new(client, client.events()));
        }
        // After those who may have gone: who comes back is not turned away because of their old connection.
        add(Source::Control, PollFd::new(&self.control, PollFlags::IN));
        add(Source::Line, PollFd::new(&self.line, PollFlags::IN));
        if self.clients.len() < MAX_CLIENTS {
            add(Source::Flash, PollFd::new(&self.flash, PollFlags::IN));
        }
        let patience = self.board.as_ref().and_then(Board::deadline);
        let patience = patience.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let patience = patience.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn accept_client(&mut self) {
        let client = self.flash.accept().and_then(|(stream, _)| Client::new(stream, self.chip.flash()));
        self.clients.extend(client.ok());
    }

    /// There is one controller: another is turned away while the first is connected.
    fn accept_controller(&mut self) {
        if let Some(link) = accepted(self.control.accept())
            && self.controller.is_none()
        {
            self.controller = Some(link);
        }
    }

    /// There is one board; a new one learns how the line is.
    fn accept_board(&mut self) {
        if let Some(link) = accepted(self.line.accept())
            && self.board.is_none()
        {
            let line = if self.chip.reset() == Reset::Held { Line::Hold } else { Line::Release };
            self.board = Board::new(link, line).ok();
        }
    }

    fn serve_controller(&mut self) {
        let Some(controller) = &self.controller else { return };
        let answer = match controller.receive() {
            _ if self.wish.is_some() => {
                // Not asked for input: it hung up. What it asked for still happens.
                self.controller = None;
                return;
            }
            Ok((request, fds)) => self.obey(request, fds),
            Err(LinkError::Io(Errno::AGAIN)) => return,
            Err(LinkError::Malformed(_) | LinkError::TooLong) => {
                Err(Fault::new("chip.request", "this is no request to the security chip"))
            }
            Err(LinkError::Closed | LinkError::Io(_)) => {
                self.controller = None;
                return;
            }
        };
        match answer {
            Ok(Some(reply)) => self.answer(&reply),
            Ok(None) => {}
            Err(fault) => self.answer(&Reply::Fault(fault)),
        }
    }

    /// Does what the controller asks; no reply yet means that the board has to follow first.
    fn obey(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Fault> {
        match request {
            Request::Status => Ok(Some(control::status(&mut self.chip))),
            Request::Measure { region } => control::measure(&mut self.chip, region).map(Some),
            Request::Events { after } => Ok(Some(control::events(&mut self.chip, after))),
            Request::Update { sha256 } => {
                let outcome = control::update(&mut self.chip, &sha256, fds);
                tracing::info!(sha256, refused = outcome.is_err(), "firmware update");
                outcome.map(Some)
            }
            Request::ReleaseReset { code } => self.release(&code),
            Request::HoldReset => self.hold(),
        }
    }

    fn release(&mut self, code: &str) -> Result<Option<Reply>, Fault> {
        let verified = control::digest(code)?;
        let was_held = self.chip.reset() == Reset::Held;
        if was_held && self.board.is_none() {
            return Err(silent());
        }
        self.chip.release(verified).map_err(control::fault)?;
        if !was_held {
            return Ok(Some(Reply::Done));
        }
        tracing::info!(code, "reset released");
        self.wish = Some(Wish::Release);
        self.tell_board(Line::Release);
        Ok(None)
    }

    fn hold(&mut self) -> Result<Option<Reply>, Fault> {
        let was_held = self.chip.reset() == Reset::Held;
        self.chip.hold();
        tracing::info!("reset held");
        if self.board.is_none() {
            // A board that was let go and cannot be reached may still run.
            return if was_held { Ok(Some(Reply::Done)) } else { Err(silent()) };
        }
        self.wish = Some(Wish::Hold);
        self.tell_board(Line::Hold);
        Ok(None)
    }

    fn tell_board(&mut self, line: Line) {
        if self.board.as_mut().is_some_and(|board| board.send(line).is_err()) {
            self.lose_board();
        }
    }

    fn hear_board(&mut self) {
        let reply = match self.board.as_mut().map(Board::receive) {
            Some(Ok(Some(reply))) => reply,
            Some(Ok(None) | Err(LinkError::Io(Errno::AGAIN))) | None => return,
            Some(Err(_)) => return self.lose_board(),
        };
        match (self.wish.take(), reply) {
            (Some(_), LineReply::Done) => self.answer(&Reply::Done),
            (Some(wish), LineReply::Fault(fault)) => {
                if wish == Wish::Release {
                    self.chip.hold();
                    self.tell_board(Line::Hold);
                }
                // Bounded, so that the board cannot make a reply that is too long to send.
                let what: String = fault.to_string().chars().take(200).collect();
                self.answer(&Reply::Fault(Fault::new("chip.board-failed", what)));
            }
            (None, LineReply::Fault(fault)) => {
                tracing::warn!(%fault, "the main board did not follow the line");
            }
            (None, LineReply::Done) => {}
        }
    }

    /// The board went away or does not answer. A board that was to be let go is held.
    fn lose_board(&mut self) {
        tracing::warn!("the main board is gone from the reset line");
        self.board = None;
        let wish = self.wish.take();
        if wish == Some(Wish::Release) {
            self.chip.hold();
        }
        if wish.is_some() {
            self.answer(&Reply::Fault(silent()));
        }
    }

    fn answer(&mut self, reply: &Reply) {
        // The socket does not wait: a controller that does not read its replies is cut off.
        if self.controller.as_ref().is_some_and(|controller| controller.send(reply, &[]).is_err()) {
            self.controller = None;
        }
    }
}

fn silent() -> Fault {
    Fault::new(
        "chip.board-silent",
        "the main board does not answer on the reset line: see that it is connected",
    )
}

/// A link that never makes the chip wait.
fn accepted<L: AsFd>(link: Result<L, LinkError>) -> Option<L> {
    link.ok().filter(|link| ioctl_fionbio(link, true).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::sha256;

    #[test]
    fn a_board_that_does_not_answer_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("code"), [1; 512]).unwrap();
        std::fs::write(path("variables"), [2; 512]).unwrap();
        let files = FlashFiles::open(&path("code"), &path("variables")).unwrap();
        let listen = |name| Listener::bind(&path(name)).unwrap();
        let flash = UnixListener::bind(path("nbd")).unwrap();
        let server = Server::new(files, flash, listen("control"), listen("line")).unwrap();
        std::thread::spawn(|| server.run());

        let line: Link<LineReply, Line> = wire::connect(&path("line")).unwrap();
        assert_eq!(line.receive().unwrap().0, Line::Hold);
        line.send(&LineReply::Done, &[]).unwrap();
        let controller: Link<Request, Reply> = wire::connect(&path("control")).unwrap();
        let code = sha256(&[1; 512]).iter().map(|byte| format!("{byte:02x}")).collect();
        let reply = controller.call(&Request::ReleaseReset { code }, &[]).unwrap();
        assert!(matches!(reply, Reply::Fault(fault) if fault.code == "chip.board-silent"));
        assert_eq!(line.receive().unwrap().0, Line::Release);
        assert!(line.receive().is_err(), "the chip has hung up");
        let status = controller.call(&Request::Status, &[]).unwrap();
        assert!(matches!(status, Reply::Status { reset_held: true, .. }));
    }
}
