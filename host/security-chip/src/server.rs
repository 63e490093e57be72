//! The sockets: one thread that waits for all of them, so nobody can hold up anybody else.

use crate::{board::Board, buses::Bus, clients::Client, control, flash::FlashFiles};
use chip_core::{Chip, Line, Master};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
};
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
    chip::{self, LineReply, Lines, Reply, Request},
};

/// QEMU opens two connections, and two more while an old one is still closing.
const MAX_CLIENTS: usize = 8;

/// A request of the controller that waits for the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Hold,
    Release(Line),
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Flash,
    Control,
    Line,
    Controller,
    Board,
    Bus(Master),
    Client(usize),
}

/// Where others connect.
pub(crate) struct Sockets {
    pub(crate) flash: UnixListener,
    pub(crate) control: Listener,
    pub(crate) line: Listener,
    /// In the order of [`Master::ALL`].
    pub(crate) buses: [Option<Listener>; 2],
}

/// The chip and everyone who is connected to it.
pub(crate) struct Server {
    chip: Chip<FlashFiles>,
    sockets: Sockets,
    controller: Option<Link<Reply, Request>>,
    board: Option<Board>,
    /// In the order of [`Master::ALL`].
    buses: [Option<Bus>; 2],
    clients: Vec<Client>,
    wish: Option<Wish>,
}

impl Server {
    pub(crate) fn new(flash: FlashFiles, mut sockets: Sockets) -> io::Result<Self> {
        sockets.flash.set_nonblocking(true)?;
        ioctl_fionbio(&sockets.control, true)?;
        ioctl_fionbio(&sockets.line, true)?;
        let chip = Chip::new(flash);
        let buses = Master::ALL.map(|master| sockets.buses.get_mut(master as usize).and_then(Option::take));
        let [cpu, bmc] = buses.map(|listener| listener.map(Bus::new).transpose());
        let buses = [cpu?, bmc?];
        let (controller, board, clients, wish) = (None, None, Vec::new(), None);
        Ok(Self { chip, sockets, controller, board, buses, clients, wish })
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
                    Source::Bus(master) => {
                        if let Some(Some(bus)) = self.buses.get_mut(master as usize) {
                            bus.turn(master, &mut self.chip);
                        }
                    }
                    Source::Client(index) => {
                        if let Some(client) = self.clients.get_mut(index)
                            && !client.turn(&mut self.chip)
                        {
                            // Those after it move up, and have their turn in the next round.
                            self.clients.remove(index);
                            if self.clients.is_empty() {
                                self.chip.restarted(Master::Cpu);
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
        for (master, bus) in Master::ALL.into_iter().zip(&self.buses) {
            if let Some(bus) = bus {
                add(Source::Bus(master), PollFd::new(bus, PollFlags::IN));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            add(Source::Client(index), PollFd::new(client, client.events()));
        }
        // After those who may have gone: who comes back is not turned away because of their old connection.
        add(Source::Control, PollFd::new(&self.sockets.control, PollFlags::IN));
        add(Source::Line, PollFd::new(&self.sockets.line, PollFlags::IN));
        if self.clients.len() < MAX_CLIENTS {
            add(Source::Flash, PollFd::new(&self.sockets.flash, PollFlags::IN));
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
        let client =
            self.sockets.flash.accept().and_then(|(stream, _)| Client::new(stream, self.chip.flash()));
        self.clients.extend(client.ok());
    }

    /// There is one controller: another is turned away while the first is connected.
    fn accept_controller(&mut self) {
        if let Some(link) = accepted(self.sockets.control.accept())
            && self.controller.is_none()
        {
            self.controller = Some(link);
        }
    }

    /// There is one board; a new one learns how the lines are.
    fn accept_board(&mut self) {
        if let Some(link) = accepted(self.sockets.line.accept())
            && self.board.is_none()
        {
            self.board = Board::new(link, control::lines(&self.chip)).ok();
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
            Request::Update { region, sha256 } => {
                let outcome = control::update(&mut self.chip, region, &sha256, fds);
                tracing::info!(?region, sha256, refused = outcome.is_err(), "firmware update");
                outcome.map(Some)
            }
            Request::Release { line, firmware } => self.release(control::line(line), &firmware),
            Request::Hold { line } => self.hold(control::line(line)),
        }
    }

    fn release(&mut self, line: Line, firmware: &chip::Firmware) -> Result<Option<Reply>, Fault> {
        let verified = control::verified(firmware)?;
        let was_held = self.chip.holds(line);
        if was_held && self.board.is_none() {
            return Err(silent());
        }
        self.chip.release(line, &verified).map_err(control::fault)?;
        if !was_held {
            return Ok(Some(Reply::Done));
        }
        tracing::info!(?line, firmware.code, "reset released");
        self.wish = Some(Wish::Release(line));
        self.tell_board();
        Ok(None)
    }

    fn hold(&mut self, line: Line) -> Result<Option<Reply>, Fault> {
        let was_held = self.chip.holds(line);
        self.chip.hold(line);
        tracing::info!(?line, "reset held");
        if self.board.is_none() {
            // A board that was let go and cannot be reached may still run.
            return if was_held { Ok(Some(Reply::Done)) } else { Err(silent()) };
        }
        self.wish = Some(Wish::Hold);
        self.tell_board();
        Ok(None)
    }

    /// Puts the lines of the board as the chip has them.
    fn tell_board(&mut self) {
        let lines: Lines = control::lines(&self.chip);
        if self.board.as_mut().is_some_and(|board| board.send(lines).is_err()) {
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
                if let Wish::Release(line) = wish {
                    self.chip.hold(line);
                    self.tell_board();
                }
                // Bounded, so that the board cannot make a reply that is too long to send.
                let what: String = fault.to_string().chars().take(200).collect();
                self.answer(&Reply::Fault(Fault::new("chip.board-failed", what)));
            }
            (None, LineReply::Fault(fault)) => {
                tracing::warn!(%fault, "the main board did not follow the lines");
            }
            (None, LineReply::Done) => {}
        }
    }

    /// The board went away or does not answer. A board that was to be let go is held.
    fn lose_board(&mut self) {
        tracing::warn!("the main board is gone from the reset lines");
        self.board = None;
        let wish = self.wish.take();
        if let Some(Wish::Release(line)) = wish {
            self.chip.hold(line);
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
        "the main board does not answer on the reset lines: see that it is connected",
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
        let files = FlashFiles::open(&path("code"), &path("variables"), None).unwrap();
        let listen = |name| Listener::bind(&path(name)).unwrap();
        let flash = UnixListener::bind(path("nbd")).unwrap();
        let sockets =
            Sockets { flash, control: listen("control"), line: listen("line"), buses: [None, None] };
        let server = Server::new(files, sockets).unwrap();
        std::thread::spawn(|| server.run());

        let line: Link<LineReply, Lines> = wire::connect(&path("line")).unwrap();
        assert_eq!(line.receive().unwrap().0, Lines::HELD);
        line.send(&LineReply::Done, &[]).unwrap();
        let controller: Link<Request, Reply> = wire::connect(&path("control")).unwrap();
        let code = sha256(&[1; 512]).iter().map(|byte| format!("{byte:02x}")).collect();
        let firmware = chip::Firmware { code, bmc: None };
        let release = Request::Release { line: chip::Line::Bmc, firmware };
        let reply = controller.call(&release, &[]).unwrap();
        assert!(matches!(reply, Reply::Fault(fault) if fault.code == "chip.board-silent"));
        let released = Lines { bmc: chip::Reset::Released, ..Lines::HELD };
        assert_eq!(line.receive().unwrap().0, released);
        assert!(line.receive().is_err(), "the chip has hung up");
        let status = controller.call(&Request::Status, &[]).unwrap();
        assert!(matches!(status, Reply::Status { lines: Lines::HELD, .. }));
    }
}
