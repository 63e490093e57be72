//! One instance: its function, its module, and whoever is connected.

use crate::{
    card::Refusal,
    pairs::{self, DEVICE, QUEUE},
};
use guest_memory::Sealing;
use ids::InstanceId;
use nsm::{CardKey, Chain, Extension, Issuer, Module};
use rustix::{
    event::PollFlags,
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, accept_with, sockopt},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::{Duration, SystemTime},
};
use vfio_user::{Session, Wait};
use virtio::{Function, Kind};
use wire::attestation::{self, Certificate, InstanceStatus, MAX_EXTENSIONS};

/// Encryption controller, other.
const CLASS: [u8; 3] = [0x10, 0x80, 0];

struct Connection {
    session: Session,
    wait: Wait,
    module: Module,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    registers: Vec<Extension>,
    issuer: Option<Issuer>,
    function: Function,
    listener: Option<OwnedFd>,
    connection: Option<Connection>,
    /// The guest may have more requests in its queue.
    unfinished: bool,
    requests: u64,
}

impl Instance {
    pub(crate) fn new(
        attach: attestation::Attach,
        listener: Option<OwnedFd>,
        key: &Rc<CardKey>,
    ) -> Result<Self, Refusal> {
        if let Some(listener) = &listener {
            let listens = sockopt::socket_acceptconn(listener) == Ok(true);
            if !listens || !is_unix_stream(listener) || never_wait(listener).is_err() {
                return Err(Refusal::Malformed("the descriptor is no listening Unix stream socket"));
            }
        }
        if attach.registers.len() > MAX_EXTENSIONS {
            return Err(Refusal::Malformed("there are too many extensions of registers"));
        }
        let registers = attach.registers.into_iter();
        let registers = registers.map(|one| Extension { register: one.register, data: one.data }).collect();
        let kind = Kind { device: DEVICE, class: CLASS, queues: &[QUEUE] };
        let mut instance = Self {
            id: attach.instance,
            registers,
            issuer: None,
            function: Function::new(&kind, Sealing::Required),
            listener,
            connection: None,
            unfinished: false,
            requests: 0,
        };
        // Whether its registers can be extended so is known now, not when it starts.
        instance.module()?;
        if !attach.chain.is_empty() {
            instance.certify(attach.chain, key)?;
        }
        Ok(instance)
    }

    fn module(&self) -> Result<Module, Refusal> {
        let mut random = [0; 2];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Refusal::Random)?;
        Module::new(&self.id, &self.registers, now(), u16::from_ne_bytes(random))
            .map_err(|_| Refusal::Malformed("a register cannot be extended so"))
    }

    pub(crate) fn certify(&mut self, chain: Vec<Certificate>, key: &Rc<CardKey>) -> Result<(), Refusal> {
        let chain = Chain::new(chain.into_iter().map(|certificate| certificate.0).collect())?;
        self.issuer = Some(Issuer::new(Rc::clone(key), chain)?);
        Ok(())
    }

    /// The instance starts: registers are as at first, and who was connected before is gone.
    pub(crate) fn connect(&mut self, socket: OwnedFd) -> Result<(), Refusal> {
        let stream = is_unix_stream(&socket) && sockopt::socket_acceptconn(&socket) == Ok(false);
        if !stream || never_wait(&socket).is_err() {
            return Err(Refusal::Malformed("connect takes one connected Unix stream socket"));
        }
        let module = self.module()?;
        self.leave();
        tracing::info!(module = module.id(), "an instance starts");
        self.connection = Some(Connection { session: Session::new(socket), wait: Wait::Input, module });
        Ok(())
    }

    fn leave(&mut self) {
        self.connection = None;
        self.unfinished = false;
        self.function.disconnect();
    }

    /// What to wait for: the hypervisor, or, where nobody is connected, somebody who wants to be.
    pub(crate) fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.connection, &self.listener) {
            (Some(connection), _) => {
                let flags = if connection.wait == Wait::Output { PollFlags::OUT } else { PollFlags::IN };
                Some((connection.session.as_fd(), flags))
            }
            (None, Some(listener)) => Some((listener.as_fd(), PollFlags::IN)),
            (None, None) => None,
        }
    }

    /// Whether there is something to do without waiting.
    pub(crate) fn is_busy(&self) -> bool {
        self.unfinished || self.connection.as_ref().is_some_and(|connection| connection.wait == Wait::Nothing)
    }

    /// Does one turn of work.
    pub(crate) fn work(&mut self) {
        if self.connection.is_none() {
            return self.accept();
        }
        let Some(connection) = &mut self.connection else { return };
        match connection.session.step(&mut self.function) {
            Ok(wait) => connection.wait = wait,
            Err(error) => {
                tracing::info!(instance = %self.id, %error, "the hypervisor is gone");
                return self.leave();
            }
        }
        self.unfinished |= self.function.take_notification();
        if self.unfinished {
            self.answer();
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        if let Err(error) = self.connect(socket) {
            tracing::error!(instance = %self.id, %error, "who connects is turned away");
        }
    }

    /// Answers one request, if there is one.
    fn answer(&mut self) {
        let Self { function, connection: Some(connection), issuer, .. } = self else { return };
        let mut found = false;
        let served = function.serve(0, |queue, memory| {
            let respond =
                |request: &[u8], room: usize| connection.module.handle(request, room, issuer.as_ref(), now());
            let (answered, interrupt) = pairs::answer(queue, memory, respond)?;
            found = answered;
            Ok(interrupt)
        });
        if let Err(error) = served {
            tracing::warn!(instance = %self.id, %error, "the guest's queue is broken");
        }
        self.unfinished = found;
        self.requests += u64::from(found);
    }

    pub(crate) fn status(&self) -> InstanceStatus {
        InstanceStatus {
            instance: self.id.clone(),
            connected: self.connection.is_some(),
            certified: self.issuer.is_some(),
            requests: self.requests,
        }
    }
}

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

fn never_wait(socket: &OwnedFd) -> Result<(), Errno> {
    fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)
}

fn is_unix_stream(socket: &OwnedFd) -> bool {
    sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
}
