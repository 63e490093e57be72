//! The board's ends of the private sockets: the chip's reset line, and the BMC's socket for the controller.

use crate::{Message, board::Event};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};
use wire::{
    Fault, Link, LinkError,
    board::{Reply, Request, Status},
    chip::{LineReply, Lines},
};

/// The status as of the last finished event: read without waiting for the one in work.
pub(crate) type Published = Arc<Mutex<Status>>;

/// How long the board may take over one event; starting QEMU takes most.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between attempts to reach the chip.
const PAUSE: Duration = Duration::from_millis(100);

/// Has the board follow an event.
fn follow(messages: &mpsc::Sender<Message>, event: Event) -> Result<(), Fault> {
    let (answer, result) = mpsc::sync_channel(1);
    let stopping = || Fault::new("board.stopping", "the main board is being stopped");
    messages.send(Message::Event(event, answer)).map_err(|_| stopping())?;
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(stopping()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(Fault::new("board.late", "the main board is still at work: ask for its status"))
        }
    }
}

/// Answers the controller, one connection at a time, from a thread of its own.
pub(crate) fn serve_control(listener: wire::Listener, messages: mpsc::Sender<Message>, published: Published) {
    std::thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok(link) => serve(&link, &messages, &published),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the controller");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    });
}

fn serve(link: &Link<Reply, Request>, messages: &mpsc::Sender<Message>, published: &Published) {
    loop {
        let event = match link.receive() {
            Ok((Request::Status, _)) => None,
            Ok((Request::Plug { slot, socket }, _)) => Some(Ok(Event::Plug { slot, socket })),
            Ok((Request::Unplug { slot }, _)) => Some(Ok(Event::Unplug { slot })),
            Ok((Request::PowerButton, _)) => Some(Ok(Event::PowerButton)),
            Err(LinkError::Malformed(error)) => {
                tracing::warn!(%error, "the controller sent what is no request");
                Some(Err(Fault::new("board.malformed", "this is no request to a main board")))
            }
            Err(_) => return,
        };
        let reply = match event.map(|event| event.and_then(|event| follow(messages, event))) {
            None => Reply::Status(published.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Some(Ok(())) => Reply::Done,
            Some(Err(fault)) => Reply::Fault(fault),
        };
        if link.send(&reply, &[]).is_err() {
            return;
        }
    }
}

/// Follows the chip's reset lines from a thread of its own. Cut lines hold the board.
pub(crate) fn follow_line(path: PathBuf, messages: mpsc::Sender<Message>) {
    std::thread::spawn(move || {
        let mut told = false;
        loop {
            match wire::connect(&path) {
                Ok(link) => {
                    told = false;
                    let end = obey(&link, &messages);
                    tracing::warn!(%end, "the reset lines are cut: holding");
                    if let Err(fault) = follow(&messages, Event::Lines(Lines::HELD)) {
                        tracing::error!(code = fault.code, "{}", fault.message);
                    }
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(%error, path = %path.display(), "the security chip is not there yet");
                }
                Err(_) => {}
            }
            std::thread::sleep(PAUSE);
        }
    });
}

fn obey(link: &Link<LineReply, Lines>, messages: &mpsc::Sender<Message>) -> LinkError {
    loop {
        let lines = match link.receive() {
            Ok((lines, _)) => lines,
            Err(error) => return error,
        };
        let reply = follow(messages, Event::Lines(lines)).map_or_else(LineReply::Fault, |()| LineReply::Done);
        if let Err(error) = link.send(&reply, &[]) {
            return error;
        }
    }
}
