//! The volume card: started from a measured image, asked over its private socket, certified by the host.

use crate::{
    Refusal,
    peer::{CardSide, Peer, unexpected},
};
use host_api::{CardCertificate, CardStatus, Sha256};
use ids::{HostId, VolumeId};
use rustix::io::{FdFlags, fcntl_setfd};
use sandbox::Violation;
use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use token::{CardKeyCertificate, Ed25519KeyPair};
use wire::{
    Link,
    card::{Attach, Reply, Request, VolumeStatus},
};

/// A card key certificate is valid from so many seconds before it is asked for, for clocks that are apart,
const BACKDATED: u64 = 60;
/// to so many seconds after.
const LIFETIME: u64 = 60 * 60;
/// How long the controller waits at its own end for the card's.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What runs on the host, held in memory that nobody can change any more.
#[derive(Debug)]
pub struct Image {
    memory: OwnedFd,
    digest: [u8; 32],
}

impl Image {
    /// Takes memory that was sealed after these bytes had been written.
    pub fn new(memory: OwnedFd, digest: [u8; 32]) -> Self {
        Self { memory, digest }
    }

    /// SHA-256 of exactly the bytes that are used.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Starts the program with one end of a private socket and nothing else.
    fn start(&self) -> io::Result<(Child, Peer<CardSide>)> {
        let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
        let (ours, theirs) = Link::<Request, Reply>::pair().map_err(gone)?;
        let theirs = OwnedFd::from(theirs);
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let child = Command::new(format!("/proc/self/fd/{}", self.memory.as_raw_fd()))
            .arg0("azote-volume-card")
            .args(["--control-fd", &theirs.as_raw_fd().to_string()])
            .env_clear()
            .envs(std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok((child, Peer::new(ours).map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?))
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl From<Image> for OwnedFd {
    fn from(image: Image) -> Self {
        image.memory
    }
}

/// The card.
#[derive(Debug)]
pub struct Card {
    image: Sha256,
    peer: Peer<CardSide>,
    public_key: Option<[u8; 32]>,
    child: Option<Child>,
    violation: Option<Violation>,
}

impl Card {
    /// Starts the card from its image and asks for its public key.
    pub fn start(image: &Image) -> Result<Self, Refusal> {
        let (child, peer) = image.start().map_err(|error| {
            tracing::error!(%error, "the volume card cannot be started");
            Refusal::of("card.gone")
        })?;
        Self::connect(Sha256::from_digest(image.digest()), peer, Some(child))
    }

    /// Takes the socket of a card that runs already and asks for its public key.
    pub fn connect(image: Sha256, mut peer: Peer<CardSide>, child: Option<Child>) -> Result<Self, Refusal> {
        let public_key = match peer.call(&Request::Hello, &[])? {
            Reply::Hello { public_key } => public_key.try_into().ok(),
            _ => None,
        };
        let public_key = Some(public_key.ok_or_else(unexpected::<CardSide>)?);
        Ok(Self { image, peer, public_key, child, violation: None })
    }

    /// A card that could not be started.
    pub fn absent(image: Sha256) -> Self {
        Self { image, peer: Peer::absent(), public_key: None, child: None, violation: None }
    }

    /// Attaches a volume: `storage` is its backing file, `function` the listening socket; without one it waits for
    /// [`Card::connect_function`].
    pub fn attach(
        &mut self,
        attach: Attach,
        storage: BorrowedFd<'_>,
        function: Option<BorrowedFd<'_>>,
    ) -> Result<(), Refusal> {
        let fds: Vec<_> = [storage].into_iter().chain(function).collect();
        self.done(&Request::Attach(attach), &fds)
    }

    /// Connects a volume's function to the other end of `socket`.
    pub fn connect_function(&mut self, volume: &VolumeId, socket: BorrowedFd<'_>) -> Result<(), Refusal> {
        self.done(&Request::Connect { volume: volume.clone() }, &[socket])
    }

    /// Detaches a volume: its key is wiped when this returns. A card that is gone or does not know the volume
    /// has no key of it.
    pub fn detach(&mut self, volume: &VolumeId, force: bool) -> Result<(), Refusal> {
        match self.done(&Request::Detach { volume: volume.clone(), force }, &[]) {
            Err(Refusal { code: "card.gone" | "volume.unknown", .. }) => Ok(()),
            other => other,
        }
    }

    /// What the card says about its volumes; nothing if it is gone.
    pub fn volumes(&mut self) -> Vec<VolumeStatus> {
        match self.peer.call(&Request::Status, &[]) {
            Ok(Reply::Status { volumes }) => volumes,
            _ => Vec::new(),
        }
    }

    /// Whether the card is there; takes its exit status if it is not.
    pub fn is_there(&mut self) -> bool {
        let there = self.peer.is_there();
        if !there && let Some(Ok(Some(exit))) = self.child.as_mut().map(Child::try_wait) {
            tracing::error!(%exit, "the volume card is gone");
            self.violation = Violation::of(exit);
            self.child = None;
        }
        there
    }

    /// The call that the card is gone because of, told once, if it made one that its sandbox forbids. It may be
    /// known a moment later than that the card is gone.
    pub fn violation(&mut self) -> Option<Violation> {
        self.is_there();
        self.violation.take()
    }

    /// Its state, with a certificate by which others know that the key is this host's card's.
    pub fn status(&mut self, host: &HostId, identity: &Ed25519KeyPair, now: u64) -> CardStatus {
        let public_key = self.public_key.filter(|_| self.is_there());
        let certificate = public_key.and_then(|public_key| {
            let certificate = CardKeyCertificate {
                host: host.clone(),
                public_key,
                not_before: now.saturating_sub(BACKDATED),
                not_after: now + LIFETIME,
            };
            CardCertificate::from_bytes(&certificate.sign(identity)?).ok()
        });
        CardStatus { image: self.image.clone(), certificate }
    }

    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Refusal> {
        match self.peer.call(request, fds)? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<CardSide>()),
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Closing the socket tells the card to end. The sandbox forbids signals to it.
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

    #[test]
    fn what_the_sandbox_ended_a_card_for_is_told_once() {
        for (end, violation) in [
            ("exit 90", Some(Violation::Outbound)),
            ("kill -SYS $$", Some(Violation::Other)),
            ("kill -KILL $$", None),
            ("exit 0", None),
        ] {
            let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
            theirs.send(&Reply::Hello { public_key: vec![1; 32] }, &[]).unwrap();
            let child = Command::new("sh").arg("-c").arg(end).spawn().unwrap();
            let image = Sha256::from_digest(&[0; 32]);
            let mut card = Card::connect(image, Peer::new(ours).unwrap(), Some(child)).unwrap();
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
