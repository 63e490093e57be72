//! The process of a card: started from its measured image with one private socket, asked over that, and waited for when
//! it is to end.

use crate::{
    Refusal,
    card::Image,
    peer::{Peer, Side},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox::Violation;
use std::{
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use wire::Link;

/// How long the controller waits at its own end for the card's.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A process, and the socket to it.
pub struct Process<S: Side> {
    peer: Peer<S>,
    child: Option<Child>,
    violation: Option<Violation>,
}

impl<S: Side> fmt::Debug for Process<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("child", &self.child)
            .field("violation", &self.violation)
            .finish_non_exhaustive()
    }
}

impl<S: Side> Process<S> {
    /// Starts the program, which is called `name`, with one end of a private socket as its standard input and nothing
    /// else.
    pub fn start(image: &Image, name: &str) -> Result<Self, Refusal> {
        Self::launch(image, name).map_err(|error| {
            tracing::error!(name, %error, "a card cannot be started");
            Refusal::of(S::GONE)
        })
    }

    fn launch(image: &Image, name: &str) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(format!("/proc/self/fd/{}", image.as_fd().as_raw_fd()))
            .arg0(name)
            .env_clear()
            .envs(std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level)))
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self::connected(Peer::new(Link::new(ours)).map_err(|_| gone())?, Some(child)))
    }

    /// Takes the socket of one that runs already.
    pub fn connected(peer: Peer<S>, child: Option<Child>) -> Self {
        Self { peer, child, violation: None }
    }

    /// One that was never there.
    pub fn absent() -> Self {
        Self::connected(Peer::absent(), None)
    }

    /// Asks and waits for the answer, as [`Peer::call`] does.
    pub fn call(&mut self, request: &S::Request, fds: &[BorrowedFd<'_>]) -> Result<S::Reply, Refusal> {
        self.peer.call(request, fds)
    }

    /// Whether it is there; takes its exit status if it is not.
    pub fn is_there(&mut self) -> bool {
        let there = self.peer.is_there();
        if !there && let Some(Ok(Some(exit))) = self.child.as_mut().map(Child::try_wait) {
            tracing::error!(%exit, code = S::GONE, "a card is gone");
            self.violation = Violation::of(exit);
            self.child = None;
        }
        there
    }

    /// The call that it is gone because of, told once, if it made one that its sandbox forbids. It may be known a
    /// moment later than that it is gone.
    pub fn violation(&mut self) -> Option<Violation> {
        self.is_there();
        self.violation.take()
    }
}

impl<S: Side> Drop for Process<S> {
    fn drop(&mut self) {
        // Closing the socket tells it to end. The sandbox forbids signals to it.
        self.peer = Peer::absent();
        let Some(child) = &mut self.child else { return };
        let end = Instant::now() + LAST_WAIT;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::CardSide;

    #[test]
    fn what_the_sandbox_ended_a_card_for_is_told_once() {
        for (end, violation) in [
            ("exit 90", Some(Violation::Outbound)),
            ("kill -SYS $$", Some(Violation::Other)),
            ("kill -KILL $$", None),
            ("exit 0", None),
        ] {
            let (ours, theirs) = Link::pair().unwrap();
            let theirs: Link<wire::card::Reply, wire::card::Request> = theirs;
            let child = Command::new("sh").arg("-c").arg(end).spawn().unwrap();
            let mut card = Process::<CardSide>::connected(Peer::new(ours).unwrap(), Some(child));
            assert!(card.is_there());
            drop(theirs);
            let mut told = Vec::new();
            while card.child.is_some() {
                told.extend(card.violation());
                sleep(Duration::from_millis(5));
            }
            assert_eq!(told, violation.into_iter().collect::<Vec<_>>(), "{end}");
            assert_eq!(card.violation(), None);
        }
    }
}
