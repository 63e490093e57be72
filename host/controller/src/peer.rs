//! The controller's end of a private socket. It asks and the other end answers, one after the other. An end
//! that answers too late is asked nothing until that answer has come; it is thrown away. An end that closes,
//! or that answers what is no answer, is gone for good.

use crate::Refusal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::{Timeout, set_socket_timeout},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};
use wire::{Link, LinkError, attestation, board, card, chip, hypervisor, launcher};

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
    /// The attestation card.
    AttestationSide, attestation, "attestation.gone", "attestation.fault", &[];
    /// The security chip.
    ChipSide, chip, "chip.gone", "chip.fault", &["chip."];
    /// The main board.
    BoardSide, board, "board.gone", "board.fault", &["board.", "slot."];
    /// A hypervisor.
    HypervisorSide, hypervisor, "hypervisor.gone", "hypervisor.fault", &["console.", "slot."];
    /// What starts hypervisors.
    LauncherSide, launcher, "launcher.gone", "launcher.fault", &[];
}

/// A private socket to one component.
#[derive(Debug)]
pub struct Peer<S: Side> {
    link: Option<Link<S::Request, S::Reply>>,
    /// An answer that nobody waits for any more is still to come.
    late: bool,
}

impl<S: Side> Peer<S> {
    /// Takes a connected socket.
    pub fn new(link: Link<S::Request, S::Reply>) -> Result<Self, Refusal> {
        Self::patient(link, PATIENCE)
    }

    fn patient(link: Link<S::Request, S::Reply>, patience: Duration) -> Result<Self, Refusal> {
        let mut peer = Self { link: Some(link), late: false };
        peer.patience(patience).map(|()| peer)
    }

    /// Waits so long for each answer from here on.
    pub fn patience(&mut self, patience: Duration) -> Result<(), Refusal> {
        let Some(link) = &self.link else { return Ok(()) };
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(link, direction, Some(patience)).map_err(|_| Refusal::of(S::GONE))?;
        }
        Ok(())
    }

    /// A component that was never there.
    pub fn absent() -> Self {
        Self { link: None, late: false }
    }

    /// Asks and waits for the answer. A storage that hangs must not cost the card: what is not answered in
    /// time is [`Side::FAULT`], and may yet be done.
    pub fn call(&mut self, request: &S::Request, fds: &[BorrowedFd<'_>]) -> Result<S::Reply, Refusal> {
        let link = self.link.as_ref().ok_or_else(|| Refusal::of(S::GONE))?;
        if self.late && events(link, PollFlags::IN).is_empty() {
            return Err(Refusal::of(S::FAULT));
        }
        // The late answer is the first that comes: the other end answers in order.
        let caught_up = if self.late { link.receive().map(drop) } else { Ok(()) };
        self.late = false;
        let sent = caught_up.and_then(|()| link.send(request, fds));
        match sent.and_then(|()| link.receive()).map(|(reply, _)| reply) {
            Ok(reply) => match S::fault(&reply) {
                Some(fault) => Err(Refusal::from_fault(fault, S::PREFIXES, S::FAULT)),
                None => Ok(reply),
            },
            Err(LinkError::Io(Errno::AGAIN)) => {
                tracing::error!(code = S::FAULT, "a component does not answer in time");
                self.late = true;
                Err(Refusal::of(S::FAULT))
            }
            Err(error) => {
                tracing::error!(code = S::GONE, %error, "a component is given up");
                self.link = None;
                Err(Refusal::of(S::GONE))
            }
        }
    }

    /// Whether the other end is still there.
    pub fn is_there(&mut self) -> bool {
        if self.link.as_ref().is_some_and(|link| !events(link, PollFlags::empty()).is_empty()) {
            self.link = None;
        }
        self.link.is_some()
    }
}

/// Which of `wanted` is the case now, and whether the other end has hung up.
fn events(link: &impl AsFd, wanted: PollFlags) -> PollFlags {
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(link, wanted)];
    let polled = poll(&mut fds, Some(&none)).is_ok();
    fds.iter().filter(|_| polled).fold(PollFlags::empty(), |all, fd| all | fd.revents())
}

/// What an end answers that answers something else than asked.
pub fn unexpected<S: Side>() -> Refusal {
    Refusal::of(S::FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_is_thrown_away_and_costs_nothing_but_its_own_act() {
        let (ours, theirs) = Link::<card::Request, card::Reply>::pair().unwrap();
        let mut peer = Peer::<CardSide>::patient(ours, Duration::from_millis(20)).unwrap();
        for _ in 0..2 {
            assert_eq!(peer.call(&card::Request::Hello, &[]).unwrap_err().code, "card.fault");
            assert!(peer.is_there());
        }
        assert!(matches!(theirs.receive().unwrap().0, card::Request::Hello));
        theirs.send(&card::Reply::Hello { public_key: vec![1] }, &[]).unwrap();
        theirs.send(&card::Reply::Done, &[]).unwrap();
        assert!(matches!(peer.call(&card::Request::Status, &[]), Ok(card::Reply::Done)));
        assert!(
            matches!(theirs.receive().unwrap().0, card::Request::Status),
            "asked while an answer was due"
        );
        drop(theirs);
        assert_eq!(peer.call(&card::Request::Status, &[]).unwrap_err().code, "card.gone");
        assert!(!peer.is_there());
    }
}
