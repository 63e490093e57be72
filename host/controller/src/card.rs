//! The volume card: started from a measured image, asked over its private socket, certified by the host.

use crate::{
    Refusal,
    peer::{CardSide, Peer, unexpected},
    process::Process,
};
use host_api::{CardCertificate, CardStatus, Sha256};
use ids::{HostId, VolumeId};
use sandbox::Violation;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use token::{CardKeyCertificate, Ed25519KeyPair};
use wire::card::{Attach, Reply, Request, VolumeStatus};

/// A card key certificate is valid from so many seconds before it is asked for, for clocks that are apart,
const BACKDATED: u64 = 60;
/// to so many seconds after.
const LIFETIME: u64 = 60 * 60;

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
    process: Process<CardSide>,
    public_key: Option<[u8; 32]>,
}

impl Card {
    /// Starts the card from its image and asks for its public key.
    pub fn start(image: &Image) -> Result<Self, Refusal> {
        let process = Process::start(image, "azote-volume-card")?;
        Self::greet(Sha256::from_digest(image.digest()), process)
    }

    /// Takes the socket of a card that runs already and asks for its public key.
    pub fn connect(image: Sha256, peer: Peer<CardSide>) -> Result<Self, Refusal> {
        Self::greet(image, Process::connected(peer, None))
    }

    fn greet(image: Sha256, mut process: Process<CardSide>) -> Result<Self, Refusal> {
        let public_key = match process.call(&Request::Hello, &[])? {
            Reply::Hello { public_key } => public_key.try_into().ok(),
            _ => None,
        };
        let public_key = Some(public_key.ok_or_else(unexpected::<CardSide>)?);
        Ok(Self { image, process, public_key })
    }

    /// A card that could not be started.
    pub fn absent(image: Sha256) -> Self {
        Self { image, process: Process::absent(), public_key: None }
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
        match self.process.call(&Request::Status, &[]) {
            Ok(Reply::Status { volumes }) => volumes,
            _ => Vec::new(),
        }
    }

    /// Whether the card is there.
    pub fn is_there(&mut self) -> bool {
        self.process.is_there()
    }

    /// The call that the card is gone because of, told once, if it made one that its sandbox forbids. It may be
    /// known a moment later than that the card is gone.
    pub fn violation(&mut self) -> Option<Violation> {
        self.process.violation()
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
        match self.process.call(request, fds)? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<CardSide>()),
        }
    }
}
