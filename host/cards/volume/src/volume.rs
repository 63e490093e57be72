//! One attached volume: its function, its storage, and whoever is connected to it.

use crate::{
    endpoint::Endpoint,
    jobs::{Jobs, Storage, Waiting},
    pool::Pool,
    refusal::Refusal,
    ring::{Done, Event, Ring},
    store::Store,
};
use ids::VolumeId;
use nvme::Shutdown;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, accept_with, sendmsg,
        shutdown, sockopt,
    },
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vfio_user::{Session, Wait};
use wire::card::{FunctionState, VolumeStatus};

/// Commands taken from a volume's queues in one go, so that no volume keeps the others waiting.
const BUDGET: usize = 64;

/// What a volume's calls may use of the card.
pub(crate) struct Shared<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) pool: &'a mut Pool,
    pub(crate) waiting: &'a mut Waiting,
    /// Nanoseconds since the card's start.
    pub(crate) now: u64,
}

/// Who is connected.
#[allow(clippy::large_enum_variant, reason = "there are as few of them as volumes")]
enum Peer {
    /// Nobody: the listening socket is watched, if there is one.
    None,
    /// A hypervisor.
    Session(Session),
    /// It is gone, and commands of its guest are still with the storage.
    Leaving,
}

/// What a volume may hear of soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lively {
    /// Nothing.
    No,
    /// The guest's next command, by its shadow doorbell.
    Guest,
    /// The end of something that is with the storage.
    Storage,
}

/// How far a detach has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detach {
    No,
    /// Commands are still with the storage.
    Draining,
    /// The last flush is.
    Syncing,
    /// Nothing is any more.
    Done,
}

/// An attached volume.
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    pub(crate) detach: Detach,
    slot: u8,
    /// Tells events of this peer from those of former ones.
    generation: u32,
    endpoint: Endpoint,
    jobs: Jobs,
    store: Store,
    /// Without one, connections come from the controller.
    listener: Option<OwnedFd>,
    peer: Peer,
    /// Who is connected once the former one has left.
    next: Option<OwnedFd>,
    /// The session has more to do without waiting.
    unfinished: bool,
    /// The other end of the session is gone; what it sent is still to be read.
    hangup: bool,
}

impl Volume {
    /// Begins to listen, on `listener` if there is one, which must be a listening socket.
    pub(crate) fn new(
        id: VolumeId,
        slot: u8,
        endpoint: Endpoint,
        store: Store,
        listener: Option<OwnedFd>,
        shared: &mut Shared<'_>,
    ) -> Result<Self, Errno> {
        listener.as_ref().map_or(Ok(()), never_wait)?;
        let volume = Self {
            id,
            detach: Detach::No,
            slot,
            generation: shared.ring.generation(),
            endpoint,
            jobs: Jobs::new(),
            store,
            listener,
            peer: Peer::None,
            next: None,
            unfinished: false,
            hangup: false,
        };
        volume.watch_listener(shared);
        Ok(volume)
    }

    fn listener_event(&self) -> Event {
        Event::Listener { slot: self.slot, generation: self.generation }
    }

    fn input_event(&self) -> Event {
        Event::Input { slot: self.slot, generation: self.generation }
    }

    fn watch_listener(&self, shared: &mut Shared<'_>) {
        if let Some(listener) = &self.listener {
            shared.ring.poll(listener.as_fd(), false, false, self.listener_event());
        }
    }

    fn watch_input(&self, shared: &mut Shared<'_>) {
        if let Peer::Session(session) = &self.peer {
            shared.ring.poll(session.as_fd(), false, true, self.input_event());
        }
    }

    /// Somebody wants to connect.
    pub(crate) fn accept(&mut self, generation: u32, shared: &mut Shared<'_>) {
        if generation != self.generation || !matches!(self.peer, Peer::None) || self.detach != Detach::No {
            return;
        }
        let Some(listener) = &self.listener else { return };
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => self.begin(socket, shared),
            Err(_) => self.watch_listener(shared),
        }
    }

    fn begin(&mut self, socket: OwnedFd, shared: &mut Shared<'_>) {
        tracing::info!(volume = %self.id, "a hypervisor has connected");
        self.generation = shared.ring.generation();
        self.peer = Peer::Session(Session::new(socket));
        self.watch_input(shared);
    }

    /// The controller connects somebody. Who is gone already makes room, also if what it sent is not read yet; its
    /// commands may still be with the storage then.
    pub(crate) fn connect(&mut self, socket: OwnedFd, shared: &mut Shared<'_>) -> Result<(), Refusal> {
        if self.listener.is_some() {
            return Err(Refusal::Malformed("the volume has a listening socket: connect there"));
        }
        if !is_connected(&socket) || never_wait(&socket).is_err() {
            return Err(Refusal::Malformed("connect takes one connected Unix stream socket"));
        }
        if let Peer::Session(session) = &self.peer
            && !has_peer(session.as_fd())
        {
            self.leave(shared);
        }
        match self.peer {
            Peer::None => self.begin(socket, shared),
            Peer::Leaving if !self.next.as_ref().is_some_and(|next| has_peer(next.as_fd())) => {
                self.next = Some(socket);
            }
            Peer::Leaving | Peer::Session(_) => return Err(Refusal::Connected),
        }
        Ok(())
    }

    /// The socket has input. The poll reports changes only: that the other end is gone is said once, maybe
    /// together with its last message, so it must be remembered.
    pub(crate) fn input(&mut self, generation: u32, done: &Done, shared: &mut Shared<'_>) {
        if generation != self.generation {
            return;
        }
        let hangup = usize::from((libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR).unsigned_abs());
        self.hangup |= done.result.is_ok_and(|events| events & hangup != 0);
        if !done.more {
            self.watch_input(shared);
        }
        self.step(shared);
    }

    /// The socket takes output again.
    pub(crate) fn output(&mut self, generation: u32, shared: &mut Shared<'_>) {
        if generation == self.generation {
            self.step(shared);
        }
    }

    /// Goes on with the session, unless it waits for commands in flight.
    fn step(&mut self, shared: &mut Shared<'_>) {
        self.unfinished = self.hangup;
        let Peer::Session(session) = &mut self.peer else { return };
        if self.endpoint.draining && self.endpoint.in_flight() > 0 {
            return;
        }
        match session.step(&mut self.endpoint) {
            Ok(Wait::Input | Wait::Device) => {}
            Ok(Wait::Nothing) => self.unfinished = true,
            Ok(Wait::Output) => {
                let event = Event::Output { slot: self.slot, generation: self.generation };
                shared.ring.poll(session.as_fd(), true, false, event);
            }
            Err(error) => {
                tracing::info!(volume = %self.id, %error, "the hypervisor is gone");
                self.leave(shared);
            }
        }
    }

    /// Ends the connection; commands in flight end by themselves.
    fn leave(&mut self, shared: &mut Shared<'_>) {
        shared.ring.cancel_poll(self.input_event());
        if let Peer::Session(session) = std::mem::replace(&mut self.peer, Peer::Leaving) {
            // The ring may hold the socket a moment longer; the other end must see the end now.
            let _ = shutdown(session.as_fd(), rustix::net::Shutdown::Both);
        }
        self.generation = shared.ring.generation();
        (self.unfinished, self.hangup) = (false, false);
        self.endpoint.disconnect();
    }

    /// Looks for work: commands, deferred calls, the end of things. Says whether there was any.
    pub(crate) fn work(&mut self, shared: &mut Shared<'_>) -> bool {
        let mut worked = self.unfinished;
        if self.unfinished {
            self.step(shared);
        }
        if self.endpoint.draining && self.endpoint.in_flight() == 0 {
            worked = true;
            self.drained(shared);
        }
        if self.detach == Detach::No && self.endpoint.runs() {
            worked |= self.poll(shared);
        }
        self.endpoint.interrupt();
        if self.detach == Detach::Draining && self.endpoint.in_flight() == 0 {
            self.detach = Detach::Syncing;
            shared.ring.sync(self.slot, Event::LastSync { slot: self.slot });
        }
        worked
    }

    /// Takes commands from the queues. Says whether there were any.
    fn poll(&mut self, shared: &mut Shared<'_>) -> bool {
        let now = shared.now;
        let Self { endpoint: Endpoint { controller, guest, .. }, jobs, store, slot, .. } = self;
        let mut storage = storage(*slot, shared, jobs, store, guest);
        let mut worked = controller.poll(guest, &mut storage, BUDGET, now) > 0;
        while let Some((tag, status)) = storage.jobs.finished.pop() {
            controller.complete(guest, tag, status, now);
            worked = true;
        }
        worked
    }

    fn drained(&mut self, shared: &mut Shared<'_>) {
        if matches!(self.peer, Peer::Leaving) {
            self.endpoint.forget_memory();
            self.peer = Peer::None;
            match self.next.take() {
                _ if self.detach != Detach::No => {}
                Some(socket) => self.begin(socket, shared),
                None => self.watch_listener(shared),
            }
        } else {
            self.step(shared);
            // The call may have been another than the one that was deferred.
            self.endpoint.draining &= self.endpoint.in_flight() > 0;
        }
    }

    /// A step of a command has completed.
    pub(crate) fn job(&mut self, index: u16, result: Result<usize, Errno>, shared: &mut Shared<'_>) {
        let Self { endpoint, jobs, store, slot, .. } = self;
        if let Some(status) = storage(*slot, shared, jobs, store, &endpoint.guest).completed(index, result) {
            endpoint.complete(index, status, shared.now);
        }
    }

    /// Goes on with a command that waited for bounce memory. False if there is still none.
    pub(crate) fn resume(&mut self, index: u16, shared: &mut Shared<'_>) -> bool {
        let Self { endpoint, jobs, store, slot, .. } = self;
        storage(*slot, shared, jobs, store, &endpoint.guest).resume(index)
    }

    /// The guest's driver would notice if the volume went.
    pub(crate) fn in_use(&self) -> bool {
        let state = self.endpoint.controller.state();
        state.enabled && state.shutdown != Shutdown::Complete && matches!(self.peer, Peer::Session(_))
    }

    /// Begins to detach: takes no more commands, waits for those in flight.
    pub(crate) fn begin_detach(&mut self, shared: &mut Shared<'_>) {
        self.detach = Detach::Draining;
        self.endpoint.controller.surprise_remove();
        if let Some(listener) = &self.listener {
            let _ = shutdown(listener, rustix::net::Shutdown::Both);
            shared.ring.cancel_poll(self.listener_event());
        }
        if matches!(self.peer, Peer::Session(_)) {
            self.leave(shared);
        }
    }

    /// The last flush has completed.
    pub(crate) fn synced(&mut self, result: Result<usize, Errno>) {
        if let Err(errno) = result {
            tracing::error!(volume = %self.id, %errno, "what the guest wrote may not be durable");
        }
        self.detach = Detach::Done;
    }

    /// Before the card sleeps: whether the guest will ring for the next command.
    pub(crate) fn arm(&mut self) -> bool {
        !self.unfinished && (!self.endpoint.runs() || self.endpoint.controller.arm(&self.endpoint.guest))
    }

    /// What may come soon without a message, so that it is worth to poll a little.
    pub(crate) fn lively(&self) -> Lively {
        let state = self.endpoint.controller.state();
        match (state.in_flight, state.shadow_doorbells) {
            (1.., _) => Lively::Storage,
            (0, true) => Lively::Guest,
            (0, false) => Lively::No,
        }
    }

    pub(crate) fn status(&self) -> VolumeStatus {
        let state = self.endpoint.controller.state();
        let counters = self.endpoint.controller.counters();
        let function = match (&self.peer, state.shutdown) {
            (Peer::None | Peer::Leaving, _) => FunctionState::Waiting,
            (Peer::Session(_), Shutdown::Complete) => FunctionState::ShutDown,
            (Peer::Session(_), _) if state.enabled => FunctionState::Enabled,
            (Peer::Session(_), _) => FunctionState::Connected,
        };
        VolumeStatus {
            volume: self.id.clone(),
            state: function,
            reads: counters.reads,
            writes: counters.writes,
            errors: counters.failed,
        }
    }
}

fn storage<'a>(
    slot: u8,
    shared: &'a mut Shared<'_>,
    jobs: &'a mut Jobs,
    store: &'a Store,
    guest: &'a crate::guest::Guest,
) -> Storage<'a> {
    Storage { slot, ring: shared.ring, pool: shared.pool, waiting: shared.waiting, jobs, store, guest }
}

fn never_wait(socket: &OwnedFd) -> Result<(), Errno> {
    fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)
}

fn is_unix_stream(socket: &OwnedFd) -> bool {
    sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
}

/// Whether a descriptor is a listening Unix stream socket.
pub(crate) fn is_listener(socket: &OwnedFd) -> bool {
    is_unix_stream(socket) && sockopt::socket_acceptconn(socket) == Ok(true)
}

/// Whether a descriptor is a connected Unix stream socket.
fn is_connected(socket: &OwnedFd) -> bool {
    is_unix_stream(socket) && send_nothing(socket.as_fd()) != Err(Errno::NOTCONN)
}

/// Whether the other end of a connected socket is there: an end of file can be seen only behind all that was sent.
fn has_peer(socket: BorrowedFd<'_>) -> bool {
    send_nothing(socket) != Err(Errno::PIPE)
}

fn send_nothing(socket: BorrowedFd<'_>) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[], &mut SendAncillaryBuffer::default(), flags)
}
