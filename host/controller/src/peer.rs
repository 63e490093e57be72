//! The controller's end of a private socket. It asks and the other end answers, within a time; an end that
//! does not, or that answers what is no answer, is gone for good.

use crate::Refusal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::{Timeout, set_socket_timeout},
};
use std::{os::fd::BorrowedFd, time::Duration};
use wire::{Link, board, card, chip};

/// Longest time for one answer: an emulated main board takes up to 45 s for one step.
const PATIENCE: Duration = Duration::from_secs(50);

/// One side of a private socket: what is sent, what comes back, and who is there.
pub trait Side {
    /// What the controller asks.
    type Request: serde::Serialize + std::fmt::Debug;
    /// What comes back.
    type Reply: serde::de::DeserializeOwned;
    /// The code for an end that is gone.
    const GONE: &'static str;
    /// The code for an answer or failure that has no code of its own.
    const FAULT: &'static str;
    /// What the API's codes for this end start with.
    const PREFIXES: &'static [&'static str];

    /// The failure in a reply.
    fn fault(reply: &Self::Reply) -> Option<&wire::Fault>;
}

macro_rules! sides {
    ($($(#[$doc:meta])* $name:ident, $module:ident, $gone:literal, $fault:literal, $prefixes:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Side for $name {
            type Request = $module::Request;
            type Reply = $module::Reply;
            const GONE: &'static str = $gone;
            const FAULT: &'static str = $fault;
            const PREFIXES: &'static [&'static str] = $prefixes;

            fn fault(reply: &Self::Reply) -> Option<&wire::Fault> {
                match reply {
                    $module::Reply::Fault(fault) => Some(fault),
                    _ => None,
                }
            }
        }
    )*};
}

sides! {
    /// The volume card.
    CardSide, card, "card.gone", "card.fault", &["volume.", "key.", "card.full"];
    /// The security chip.
    ChipSide, chip, "chip.gone", "chip.fault", &["chip."];
    /// The main board.
    BoardSide, board, "board.gone", "board.fault", &["board.", "slot."];
}

/// A private socket to one component.
#[derive(Debug)]
pub struct Peer<S: Side>(Option<Link<S::Request, S::Reply>>);

impl<S: Side> Peer<S> {
    /// Takes a connected socket.
    pub fn new(link: Link<S::Request, S::Reply>) -> Result<Self, Refusal> {
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&link, direction, Some(PATIENCE)).map_err(|_| Refusal::of(S::GONE))?;
        }
        Ok(Self(Some(link)))
    }

    /// A component that was never there.
    pub fn absent() -> Self {
        Self(None)
    }

    /// Asks and waits for the answer.
    pub fn call(&mut self, request: &S::Request, fds: &[BorrowedFd<'_>]) -> Result<S::Reply, Refusal> {
        let link = self.0.as_ref().ok_or_else(|| Refusal::of(S::GONE))?;
        match link.call(request, fds) {
            Ok(reply) => match S::fault(&reply) {
                Some(fault) => Err(Refusal::from_fault(fault, S::PREFIXES, S::FAULT)),
                None => Ok(reply),
            },
            Err(error) => {
                // A late answer would be taken for the next one's: there is no way back.
                tracing::error!(code = S::GONE, %error, "a component is given up");
                self.0 = None;
                Err(Refusal::of(S::GONE))
            }
        }
    }

    /// Whether the other end is still there.
    pub fn is_there(&mut self) -> bool {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let hung_up = self.0.as_ref().is_some_and(|link| {
            let mut fds = [PollFd::new(link, PollFlags::empty())];
            poll(&mut fds, Some(&none)).is_ok() && !fds.iter().all(|fd| fd.revents().is_empty())
        });
        if hung_up {
            self.0 = None;
        }
        self.0.is_some()
    }
}

/// What an end answers that answers something else than asked.
pub fn unexpected<S: Side>() -> Refusal {
    Refusal::of(S::FAULT)
}
