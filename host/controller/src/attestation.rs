//! The attestation card: it gives every instance a function by which that gets documents about itself. What an instance
//! started from, and what the host is, the controller says here; the host's key for instances certifies the card's key
//! for one instance at a time.

use crate::{
    Refusal,
    card::Image,
    peer::{AttestationSide, Peer, unexpected},
    process::Process,
};
use ids::InstanceId;
use nsm::{Chain, Extension, HostKey, INSTANCE_LIFETIME};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox::Violation;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use wire::attestation::{Attach, Certificate, Extension as Register, Reply, Request};

/// An instance's certificate is made anew when this much of its life is left, in seconds.
const RENEWED: u64 = INSTANCE_LIFETIME.as_secs() / 2;

/// By what the host certifies its instances.
#[derive(Debug)]
pub struct Papers {
    /// The host's key for instances.
    pub key: HostKey,
    /// What certifies that key, if there is something.
    pub chain: Option<Chain>,
    /// What instances' registers say of the host.
    pub host: Vec<Extension>,
}

/// The card, and what it is to say.
#[derive(Debug)]
pub struct Attestation {
    process: Process<AttestationSide>,
    card_key: Vec<u8>,
    /// None: this host has no such card.
    papers: Option<Papers>,
    /// When the certificate of each instance ends, in seconds since 1970.
    instances: BTreeMap<InstanceId, u64>,
}

impl Attestation {
    /// Starts the card from its image and asks for its public key.
    pub fn start(image: &Image, papers: Papers) -> Result<Self, Refusal> {
        Self::greet(Process::start(image, "azote-attestation-card")?, papers)
    }

    /// Takes the socket of a card that runs already and asks for its public key.
    pub fn connect(peer: Peer<AttestationSide>, papers: Papers) -> Result<Self, Refusal> {
        Self::greet(Process::connected(peer, None), papers)
    }

    fn greet(mut process: Process<AttestationSide>, papers: Papers) -> Result<Self, Refusal> {
        let Reply::Hello { public_key } = process.call(&Request::Hello, &[])? else {
            return Err(unexpected::<AttestationSide>());
        };
        Ok(Self { process, card_key: public_key, papers: Some(papers), instances: BTreeMap::new() })
    }

    /// A host whose release has no such card: its instances have no such function.
    pub fn none() -> Self {
        Self { process: Process::absent(), card_key: Vec::new(), papers: None, instances: BTreeMap::new() }
    }

    /// Whether the card is there, if there is to be one.
    pub fn is_there(&mut self) -> bool {
        self.papers.is_none() || self.process.is_there()
    }

    /// The call that the card is gone because of, told once, if it made one that its sandbox forbids.
    pub fn violation(&mut self) -> Option<Violation> {
        self.process.violation()
    }

    /// Whether instances have such a function.
    pub fn is_offered(&self) -> bool {
        self.papers.is_some()
    }

    /// Gives an instance its function, which says that it started from `image`; at once on `listener`, if there is one.
    /// What it had before is gone. `now` is in seconds since 1970.
    pub fn attach(
        &mut self,
        instance: &InstanceId,
        image: &[Extension],
        listener: Option<BorrowedFd<'_>>,
        now: u64,
    ) -> Result<(), Refusal> {
        let Some(papers) = &self.papers else { return Ok(()) };
        let all = [image, &nsm::of_instance(instance), &papers.host].concat();
        let registers = all.into_iter().map(|one| Register { register: one.register, data: one.data });
        let registers = registers.collect();
        self.detach(instance);
        let (chain, ends) = self.certify(instance, now)?;
        let fds: Vec<_> = listener.into_iter().collect();
        self.done(&Request::Attach(Attach { instance: instance.clone(), registers, chain }), &fds)?;
        self.instances.insert(instance.clone(), ends);
        Ok(())
    }

    /// The instance's machine starts: the other end of its function's socket, if it has one.
    pub fn function(&mut self, instance: &InstanceId) -> Result<Option<OwnedFd>, Refusal> {
        if !self.instances.contains_key(instance) {
            return Ok(None);
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| {
            tracing::error!(%instance, %error, "a function's socket cannot be made");
            Refusal::of("host.failed")
        })?;
        self.done(&Request::Connect { instance: instance.clone() }, &[theirs.as_fd()])?;
        Ok(Some(ours))
    }

    /// Takes an instance's function away. A card that is gone has nothing of it any more.
    pub fn detach(&mut self, instance: &InstanceId) {
        if self.instances.remove(instance).is_some()
            && let Err(refusal) = self.done(&Request::Detach { instance: instance.clone() }, &[])
        {
            tracing::warn!(%instance, code = refusal.code, "the attestation card does not let go of an instance");
        }
    }

    /// Certifies by another chain of the host from now on.
    pub fn offer(&mut self, chain: Chain, now: u64) {
        let Some(papers) = self.papers.as_mut().filter(|papers| papers.key.is_certified_by(&chain)) else {
            return;
        };
        papers.chain = Some(chain);
        self.instances.values_mut().for_each(|ends| *ends = 0);
        self.renew(now);
    }

    /// Makes anew what has lived for half of its life. Called every second.
    pub fn renew(&mut self, now: u64) {
        let Some(Papers { chain: Some(_), .. }) = self.papers else { return };
        let old = self.instances.iter().filter(|(_, ends)| **ends < now.saturating_add(RENEWED));
        for instance in old.map(|(instance, _)| instance.clone()).collect::<Vec<_>>() {
            let certified = self.certify(&instance, now).and_then(|(chain, ends)| {
                self.done(&Request::Certify { instance: instance.clone(), chain }, &[])?;
                Ok(ends)
            });
            // What fails is not tried again every second.
            let ends = certified.unwrap_or_else(|refusal| {
                tracing::warn!(%instance, code = refusal.code, "an instance's certificate is not made anew");
                now + 2 * RENEWED
            });
            self.instances.insert(instance, ends);
        }
    }

    /// A chain for an instance, and when its first certificate ends; an empty one if the host itself has none.
    fn certify(&self, instance: &InstanceId, now: u64) -> Result<(Vec<Certificate>, u64), Refusal> {
        let Some(Papers { key, chain: Some(chain), .. }) = &self.papers else { return Ok((Vec::new(), 0)) };
        let chain = key.certify(chain, instance, &self.card_key, Duration::from_secs(now));
        let chain = chain.map_err(|error| {
            tracing::error!(%error, code = error.code(), "an instance cannot be certified");
            Refusal::of("attestation.fault")
        })?;
        let certificates = chain.certificates().iter().cloned().map(Certificate).collect();
        Ok((certificates, chain.ends()))
    }

    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Refusal> {
        match self.process.call(request, fds)? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<AttestationSide>()),
        }
    }
}

#[cfg(test)]
mod tests;
