//! The card: the controller's requests, and the loop that serves all volumes.

use crate::{
    MAX_VOLUMES,
    endpoint::Endpoint,
    jobs::Waiting,
    pool::Pool,
    refusal::Refusal,
    ring::{COMPLETIONS, Done, Event, Ring},
    store::Store,
    volume::{Detach, Lively, Shared, Volume, is_listener},
};
use guest_memory::Sealing;
use ids::VolumeId;
use seal::{CardKey, Context, KeyError};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};
use wire::{
    Fault, Link, LinkError,
    card::{Attach, Reply, Request},
};
use xts::{Xts, XtsError};

/// How long the card polls after the last piece of work before it sleeps: while the storage owes it something,
/// and while the guest may only ring next.
const SPIN_FOR_STORAGE: Duration = Duration::from_micros(200);
const SPIN_FOR_GUEST: Duration = Duration::from_micros(50);

/// Why a card could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The ring or its memory.
    #[error("io_uring: {0}")]
    Ring(#[from] io::Error),
    /// The card's key.
    #[error("the card's key: {0}")]
    Key(#[from] KeyError),
    /// The controller's socket.
    #[error("the control socket: {0}")]
    Control(#[from] LinkError),
}

/// A volume card.
pub struct Card {
    // Before the pool: its registered buffers are the pool's.
    ring: Ring,
    pool: Pool,
    waiting: Waiting,
    key: CardKey,
    control: Link<Reply, Request>,
    volumes: [Option<Volume>; MAX_VOLUMES],
    /// The volume whose detach the controller waits for.
    detaching: Option<usize>,
    sealing: Sealing,
    start: Instant,
    stop: bool,
}

impl Card {
    /// Makes ring, memory and key. After this the card needs none of the calls that its sandbox forbids.
    /// `sealing` says which guest memory it takes.
    pub fn new(control: OwnedFd, sealing: Sealing) -> Result<Self, CardError> {
        let pool = Pool::new().map_err(io::Error::from)?;
        Ok(Self {
            ring: Ring::new(&pool)?,
            pool,
            waiting: Waiting::new(),
            key: CardKey::generate()?,
            control: Link::new(control),
            volumes: [const { None }; MAX_VOLUMES],
            detaching: None,
            sealing,
            start: Instant::now(),
            stop: false,
        })
    }

    /// Serves until the controller closes its socket.
    pub fn run(mut self) -> Result<(), CardError> {
        self.watch_control();
        let mut last_work = Instant::now();
        let mut completions = Vec::with_capacity(COMPLETIONS);
        while !self.stop {
            self.ring.reap(&mut completions);
            let now = self.now();
            let mut worked = !completions.is_empty();
            for done in completions.drain(..) {
                self.dispatch(done, now)?;
            }
            worked |= self.work(now);
            self.ring.check()?;
            if self.ring.wants_submit() {
                self.ring.submit(false);
            }
            if worked {
                last_work = Instant::now();
            } else if last_work.elapsed() < self.patience() {
                // Some writes are carried out by the kernel's workers, on this very core if it is the only one.
                rustix::thread::sched_yield();
            } else if self.volumes.iter_mut().flatten().all(Volume::arm) {
                self.ring.submit(true);
            }
        }
        Ok(())
    }

    /// How long to poll before sleeping.
    fn patience(&self) -> Duration {
        let hopes = self.volumes.iter().flatten().map(|volume| match volume.lively() {
            Lively::Storage => SPIN_FOR_STORAGE,
            Lively::Guest => SPIN_FOR_GUEST,
            Lively::No => Duration::ZERO,
        });
        hopes.max().unwrap_or_default()
    }

    fn watch_control(&mut self) {
        self.ring.poll(self.control.as_fd(), false, false, Event::Control);
    }

    fn dispatch(&mut self, done: Done, now: u64) -> Result<(), CardError> {
        let slot = match done.event {
            Event::None => return Ok(()),
            Event::Control => return self.control(),
            Event::Listener { slot, .. }
            | Event::Input { slot, .. }
            | Event::Output { slot, .. }
            | Event::Job { slot, .. }
            | Event::LastSync { slot } => slot,
        };
        let Self { ring, pool, waiting, volumes, .. } = self;
        let shared = &mut Shared { ring, pool, waiting, now };
        let Some(Some(volume)) = volumes.get_mut(usize::from(slot)) else { return Ok(()) };
        match done.event {
            Event::None | Event::Control => {}
            Event::Listener { generation, .. } => volume.accept(generation, shared),
            Event::Input { generation, .. } => volume.input(generation, &done, shared),
            Event::Output { generation, .. } => volume.output(generation, shared),
            Event::Job { index, .. } => volume.job(index, done.result, shared),
            Event::LastSync { .. } => volume.synced(done.result),
        }
        Ok(())
    }

    /// Gives every volume its turn. Says whether any had work.
    fn work(&mut self, now: u64) -> bool {
        let Self { ring, pool, waiting, volumes, .. } = self;
        let mut shared = Shared { ring, pool, waiting, now };
        while let Some((slot, index)) = shared.waiting.front().copied() {
            let volume = volumes.get_mut(usize::from(slot)).and_then(Option::as_mut);
            if volume.is_some_and(|volume| !volume.resume(index, &mut shared)) {
                break;
            }
            shared.waiting.pop_front();
        }
        let mut worked = false;
        for volume in volumes.iter_mut().flatten() {
            worked |= volume.work(&mut shared);
        }
        if let Some(slot) = self.detaching
            && self.volume(slot).is_none_or(|volume| volume.detach == Detach::Done)
        {
            self.detached(slot);
            worked = true;
        }
        worked
    }

    fn volume(&self, slot: usize) -> Option<&Volume> {
        self.volumes.get(slot).and_then(Option::as_ref)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
                Some(Reply::Fault(Refusal::Malformed("see the protocol").into()))
            }
            Err(error) => return Err(error.into()),
        };
        // A detach is answered when it is complete; until then the controller has nothing to ask.
        match reply {
            Some(reply) => self.reply(&reply),
            None => Ok(()),
        }
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), CardError> {
        match self.control.send(reply, &[]) {
            Ok(()) => self.watch_control(),
            Err(LinkError::Closed) => self.stop = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Option<Reply> {
        let done = match request {
            Request::Hello => return Some(Reply::Hello { public_key: self.key.public().to_vec() }),
            Request::Status => {
                let volumes = self.volumes.iter().flatten().map(Volume::status).collect();
                return Some(Reply::Status { volumes });
            }
            Request::Attach(attach) => self.attach(attach, fds),
            Request::Connect { volume } => self.connect(&volume, fds),
            Request::Detach { volume, force } => match self.begin_detach(&volume, force) {
                Ok(()) => return None,
                Err(refusal) => Err(refusal),
            },
        };
        Some(done.map_or_else(|refusal| Reply::Fault(Fault::from(refusal)), |()| Reply::Done))
    }

    fn attach(&mut self, attach: Attach, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let mut fds = fds.into_iter();
        let (Some(file), listener, None) = (fds.next(), fds.next(), fds.next()) else {
            return Err(Refusal::Malformed(
                "attach takes a backing file, and a listening socket if there is one",
            ));
        };
        if !listener.as_ref().is_none_or(is_listener) {
            return Err(Refusal::Malformed("the second descriptor is no listening Unix stream socket"));
        }
        if attach.size == 0 || !attach.size.is_multiple_of(4096) {
            return Err(Refusal::Malformed("the size must be a multiple of 4096 bytes"));
        }
        if self.volumes.iter().flatten().any(|volume| volume.id == attach.volume) {
            return Err(Refusal::Exists);
        }
        let slot = self.volumes.iter().position(Option::is_none).ok_or(Refusal::Full)?;
        let number = u8::try_from(slot).map_err(|_| Refusal::Full)?;
        let context = Context { host: attach.host, volume: attach.volume.clone() };
        let key = self.key.open(&attach.sealed_key, &context)?;
        let xts = Xts::new(&key).map_err(|error| match error {
            XtsError::Lock(error) => Refusal::Key(error.into()),
            XtsError::Unsupported | XtsError::Refused => Refusal::Io("the cipher does not take the key"),
        })?;
        let store = Store::new(file, attach.size, xts)?;
        let serial = attach.volume.serial();
        let endpoint = Endpoint::new(serial, attach.device_name, attach.size, self.sealing, self.now())
            .map_err(|_| Refusal::Malformed("device name or size"))?;
        let system = |_| Refusal::Io("the ring does not take it");
        self.ring.set_file(number, Some(store.file.as_fd())).map_err(system)?;
        let now = self.now();
        let Self { ring, pool, waiting, .. } = self;
        let mut shared = Shared { ring, pool, waiting, now };
        let volume = Volume::new(attach.volume, number, endpoint, store, listener, &mut shared)
            .map_err(|_| Refusal::Malformed("the listening socket cannot be used"))?;
        tracing::info!(volume = %volume.id, size = attach.size, "attached");
        if let Some(place) = self.volumes.get_mut(slot) {
            *place = Some(volume);
        }
        Ok(())
    }

    fn connect(&mut self, id: &VolumeId, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err(Refusal::Malformed("connect takes one connected Unix stream socket"));
        };
        let now = self.now();
        let Self { ring, pool, waiting, volumes, .. } = self;
        let volume = volumes.iter_mut().flatten().find(|volume| volume.id == *id).ok_or(Refusal::Unknown)?;
        volume.connect(socket, &mut Shared { ring, pool, waiting, now })
    }

    fn begin_detach(&mut self, id: &VolumeId, force: bool) -> Result<(), Refusal> {
        let now = self.now();
        let Self { ring, pool, waiting, volumes, .. } = self;
        let slot = volumes.iter().position(|volume| volume.as_ref().is_some_and(|volume| volume.id == *id));
        let slot = slot.ok_or(Refusal::Unknown)?;
        let Some(Some(volume)) = volumes.get_mut(slot) else { return Err(Refusal::Unknown) };
        if volume.in_use() && !force {
            return Err(Refusal::Busy);
        }
        volume.begin_detach(&mut Shared { ring, pool, waiting, now });
        self.detaching = Some(slot);
        Ok(())
    }

    /// A detach is complete: wipes the key, lets go of file and sockets, answers.
    fn detached(&mut self, slot: usize) {
        self.detaching = None;
        if let Some(volume) = self.volumes.get_mut(slot).and_then(Option::take) {
            tracing::info!(volume = %volume.id, force = volume.in_use(), "detached");
        }
        let result = u8::try_from(slot).map(|slot| self.ring.set_file(slot, None));
        if let Ok(Err(error)) = result {
            tracing::error!(%error, "the ring keeps a file");
        }
        if let Err(error) = self.reply(&Reply::Done) {
            tracing::error!(%error, "the controller does not hear that a detach is complete");
            self.stop = true;
        }
    }
}
