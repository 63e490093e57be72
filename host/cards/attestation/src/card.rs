//! The card: the controller's requests, and the loop that serves all instances.

use crate::instance::Instance;
use ids::InstanceId;
use nsm::{CardKey, CertificateError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{os::fd::OwnedFd, rc::Rc};
use wire::{
    Fault, Link, LinkError,
    attestation::{Attach, MAX_INSTANCES, Reply, Request},
};

/// Why a card could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The card's key.
    #[error("the card's key: {0}")]
    Key(#[from] CertificateError),
    /// The controller's socket.
    #[error("the control socket: {0}")]
    Control(#[from] LinkError),
    /// Waiting.
    #[error("waiting for sockets: {0}")]
    Wait(#[from] Errno),
}

/// Why a request of the controller was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the instance is attached already")]
    Exists,
    #[error("no such instance is attached")]
    Unknown,
    #[error("the card has {MAX_INSTANCES} instances already: detach one")]
    Full,
    #[error("not a proper request: {0}")]
    Malformed(&'static str),
    #[error("there are no random bytes")]
    Random,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists => "attestation.exists",
            Refusal::Unknown => "attestation.unknown",
            Refusal::Full => "attestation.full",
            Refusal::Malformed(_) => "request.malformed",
            Refusal::Random => "attestation.crypto",
            Refusal::Certificate(error) => error.code(),
        };
        Self::new(code, refusal.to_string())
    }
}

/// An attestation card.
pub struct Card {
    key: Rc<CardKey>,
    control: Link<Reply, Request>,
    instances: Vec<Instance>,
    stop: bool,
}

impl Card {
    /// Makes the card's key. After this the card needs none of the calls that its sandbox forbids.
    pub fn new(control: OwnedFd) -> Result<Self, CardError> {
        let key = Rc::new(CardKey::generate()?);
        Ok(Self { key, control: Link::new(control), instances: Vec::new(), stop: false })
    }

    /// Serves until the controller closes its socket.
    pub fn run(mut self) -> Result<(), CardError> {
        while !self.stop {
            let ready = self.wait()?;
            let (control, instances) =
                ready.split_first().map_or((false, &[][..]), |(first, rest)| (*first, rest));
            for (instance, ready) in self.instances.iter_mut().zip(instances) {
                if *ready || instance.is_busy() {
                    instance.work();
                }
            }
            if control {
                self.control()?;
            }
        }
        Ok(())
    }

    /// Waits unless somebody is busy; says for the controller's socket and for each instance whether it is ready.
    fn wait(&self) -> Result<Vec<bool>, Errno> {
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        let mut places = Vec::with_capacity(self.instances.len());
        for instance in &self.instances {
            let waits = instance.waits_for();
            places.push(waits.is_some().then_some(fds.len()));
            fds.extend(waits.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        }
        let busy = self.instances.iter().any(Instance::is_busy);
        let now = Timespec::default();
        match poll(&mut fds, busy.then_some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready = |place: usize| fds.get(place).is_some_and(|fd| !fd.revents().is_empty());
        let instances = places.into_iter().map(|place| place.is_some_and(ready));
        Ok([ready(0)].into_iter().chain(instances).collect())
    }

    /// The control socket is readable.
    fn control(&mut self) -> Result<(), CardError> {
        let reply = match self.control.receive() {
            Ok((request, fds)) => self.answer(request, fds),
            Err(LinkError::Closed) => {
                self.stop = true;
                return Ok(());
            }
            Err(LinkError::Malformed(_) | LinkError::TooLong) => {
                Reply::Fault(Refusal::Malformed("see the protocol").into())
            }
            Err(error) => return Err(error.into()),
        };
        match self.control.send(&reply, &[]) {
            Err(LinkError::Closed) => self.stop = true,
            sent => sent?,
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        let done = match request {
            Request::Hello => return Reply::Hello { public_key: self.key.public().to_vec() },
            Request::Status => {
                return Reply::Status { instances: self.instances.iter().map(Instance::status).collect() };
            }
            Request::Attach(attach) => self.attach(attach, fds),
            Request::Connect { instance } => self.connect(&instance, fds),
            Request::Certify { instance, chain } => {
                let key = Rc::clone(&self.key);
                self.instance(&instance).and_then(|instance| instance.certify(chain, &key))
            }
            Request::Detach { instance } => self.detach(&instance),
        };
        done.map_or_else(|refusal| Reply::Fault(refusal.into()), |()| Reply::Done)
    }

    fn instance(&mut self, id: &InstanceId) -> Result<&mut Instance, Refusal> {
        self.instances.iter_mut().find(|instance| instance.id == *id).ok_or(Refusal::Unknown)
    }

    fn attach(&mut self, attach: Attach, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let mut fds = fds.into_iter();
        let (listener, None) = (fds.next(), fds.next()) else {
            return Err(Refusal::Malformed("attach takes a listening socket or nothing"));
        };
        if self.instance(&attach.instance).is_ok() {
            return Err(Refusal::Exists);
        }
        if self.instances.len() >= MAX_INSTANCES {
            return Err(Refusal::Full);
        }
        self.instances.push(Instance::new(attach, listener, &self.key)?);
        Ok(())
    }

    fn connect(&mut self, id: &InstanceId, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Refusal::Malformed("connect takes one connected Unix stream socket"));
        };
        self.instance(id)?.connect(socket)
    }

    fn detach(&mut self, id: &InstanceId) -> Result<(), Refusal> {
        let at = self.instances.iter().position(|instance| instance.id == *id).ok_or(Refusal::Unknown)?;
        self.instances.remove(at);
        Ok(())
    }
}
