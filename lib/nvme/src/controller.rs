//! The controller: its life from enable to reset, and the requests in flight.

use crate::events::{ErrorLog, Events};
use crate::features::Features;
use crate::queues::Queues;
use crate::registers::Registers;
use crate::request::Spans;
use crate::shadow::Shadow;
use crate::slots::{Owner, Slot, Slots};
use crate::spec::Status;
use crate::stats::Stats;
use crate::{Backend, Config, ConfigError, Memory, Operation, Request, Tag};

/// What the shell must do after a register write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Call [`Controller::poll`] soon.
    Poll,
    /// The guest reset the controller: forget interrupts not yet delivered, then poll. Requests in flight stay
    /// with the backend until it completes them; CSTS.RDY stays set for as long.
    Reset,
}

/// How far an orderly shutdown has come (CSTS.SHST).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// None was asked for.
    None,
    /// Requests in flight finish, then the medium is flushed.
    Occurring,
    /// Complete.
    Complete,
}

/// What the controller is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// A driver has enabled the controller (CSTS.RDY, and not being reset).
    pub enabled: bool,
    /// Orderly shutdown.
    pub shutdown: Shutdown,
    /// CSTS.CFS: the controller waits for a reset.
    pub fatal: bool,
    /// The function was removed by surprise.
    pub removed: bool,
    /// Shadow doorbells are in use.
    pub shadow_doorbells: bool,
    /// Requests that the backend holds, those of before a reset included.
    pub in_flight: usize,
}

/// Commands completed since the controller was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Read commands that succeeded.
    pub reads: u64,
    /// Write commands that succeeded.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// I/O commands that failed. Refused admin commands stand in the error log alone.
    pub failed: u64,
}

/// One submission queue, for status and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Queue identifier; 0 is the admin queue.
    pub id: u16,
    /// Entries.
    pub size: u16,
    /// Commands seen and not yet fetched.
    pub waiting: u16,
    /// Commands that the backend holds.
    pub in_flight: u16,
}

/// MSI-X vectors to fire, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vectors(u64);

impl Iterator for Vectors {
    type Item = u16;
    fn next(&mut self) -> Option<u16> {
        let vector = self.0.trailing_zeros();
        self.0 &= self.0.checked_sub(1)?;
        u16::try_from(vector).ok()
    }
}

/// Where a controller is between two enables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Disabled,
    Enabled,
    /// Disabled by the guest, but requests of before may still touch its memory: CSTS.RDY holds until they end.
    Draining,
    Removed,
}

/// An NVMe controller with one namespace.
///
/// All times are nanoseconds of one monotonic clock.
pub struct Controller {
    pub(crate) config: Config,
    pub(crate) registers: Registers,
    pub(crate) life: Life,
    pub(crate) shutdown: Shutdown,
    pub(crate) fatal: bool,
    pub(crate) queues: Queues,
    pub(crate) shadow: Option<Shadow>,
    pub(crate) slots: Slots,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) errors: ErrorLog,
    pub(crate) stats: Stats,
    /// Commands aborted before they were fetched: queue and identifier.
    pub(crate) doomed: Vec<(u16, u16)>,
    /// Whether the namespace changed since its log page was read.
    pub(crate) namespace_changed: bool,
    /// The I/O queue that the next poll looks at first.
    pub(crate) turn: usize,
    /// The request being handed out: kept here so that it is neither moved nor allocated.
    pub(crate) request: Request,
}

impl Controller {
    /// Makes a controller, disabled. `now` is the start of its power-on time.
    pub fn new(config: Config, now: u64) -> Result<Self, ConfigError> {
        config.check()?;
        let request = Request {
            tag: Tag(0),
            operation: Operation::Flush,
            durable: false,
            lba: 0,
            blocks: 0,
            block_shift: config.block_shift(),
            spans: Spans::new(),
        };
        Ok(Self {
            registers: Registers::default(),
            life: Life::Disabled,
            shutdown: Shutdown::None,
            fatal: false,
            queues: Queues::new(config.io_queues),
            shadow: None,
            slots: Slots::new(config.max_in_flight),
            features: Features::new(&config),
            events: Events::default(),
            errors: ErrorLog::default(),
            stats: Stats::new(now),
            doomed: Vec::new(),
            namespace_changed: false,
            turn: 0,
            request,
            config,
        })
    }

    /// What the controller is doing.
    pub fn state(&self) -> State {
        State {
            enabled: self.life == Life::Enabled,
            shutdown: self.shutdown,
            fatal: self.fatal,
            removed: self.life == Life::Removed,
            shadow_doorbells: self.shadow.is_some(),
            in_flight: self.slots.in_flight(),
        }
    }

    /// Commands completed, resets notwithstanding.
    pub fn counters(&self) -> Counters {
        Counters {
            reads: self.stats.reads.operations,
            writes: self.stats.writes.operations,
            read_bytes: self.stats.reads.bytes,
            written_bytes: self.stats.writes.bytes,
            failed: self.stats.failed,
        }
    }

    /// What the controller was made with; `blocks` follows [`Self::resize`].
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The submission queues there are, by identifier.
    pub fn queues(&self) -> impl Iterator<Item = QueueState> {
        self.queues.states()
    }

    /// The vectors to fire since the last call: one for each completion queue that has new entries and
    /// interrupts enabled.
    pub fn take_interrupts(&mut self) -> Vectors {
        Vectors(std::mem::take(&mut self.queues.interrupts))
    }

    /// Function level or device reset: all registers to their defaults. Requests in flight stay with the backend;
    /// wait for `state().in_flight == 0` before answering the reset.
    pub fn reset(&mut self) {
        self.registers = Registers::default();
        self.disable();
    }

    /// The function is gone: registers read as ones, nothing is fetched or posted any more. Requests in flight
    /// stay with the backend until completed.
    pub fn surprise_remove(&mut self) {
        self.reset();
        self.life = Life::Removed;
    }

    /// Changes the size of the namespace and tells the guest, if it asked to be told. Commands in flight beyond a
    /// smaller end are the backend's to refuse.
    pub fn resize(&mut self, blocks: u64) -> Result<(), ConfigError> {
        let config = Config { blocks, ..self.config.clone() };
        config.check()?;
        if self.config.blocks != blocks {
            self.config = config;
            self.namespace_changed = true;
            if self.features.tells_namespace_changes() {
                self.events.raise(crate::events::Event::NamespaceChanged);
            }
        }
        Ok(())
    }

    /// Gives back a request. Tags that are not in flight are ignored.
    pub fn complete<M: Memory>(&mut self, memory: &M, tag: Tag, status: Status, now: u64) {
        let Some(slot) = self.slots.release(tag) else { return };
        self.stats.end(&slot, status, now);
        match slot.owner {
            Owner::Command { sq, cid } => {
                self.complete_command(memory, sq, cid, &slot, status);
            }
            // A cache that could not be flushed is no orderly shutdown: the guest must not believe in one.
            Owner::Shutdown if self.shutdown == Shutdown::Occurring => {
                if status.is_success() {
                    self.shutdown = Shutdown::Complete;
                } else {
                    self.fatal = true;
                }
            }
            Owner::Shutdown | Owner::Free => {}
        }
        if self.life == Life::Draining && self.slots.in_flight() == 0 {
            self.drained();
        }
    }

    /// Ends a command that was in flight, and the deletion of its queue if that waited for it.
    pub(crate) fn complete_command<M: Memory>(
        &mut self,
        memory: &M,
        sq: u16,
        cid: u16,
        slot: &Slot,
        status: Status,
    ) {
        // Without its queue it is a request of before a reset: there are no new queues until all of those have ended.
        let Some(queue) = self.queues.sq(sq) else { return };
        queue.in_flight = queue.in_flight.saturating_sub(1);
        let deletion = queue.deletion.filter(|_| queue.in_flight == 0);
        if status.is_success() {
            self.post(memory, sq, cid, status, 0);
        } else {
            self.fail(memory, (sq, cid), crate::io::NAMESPACE, slot.lba, status);
        }
        if let Some(deletion) = deletion {
            self.finish_deletion(memory, sq, deletion);
        }
    }

    /// Posts a completion. Without a place for it the controller can not go on.
    pub(crate) fn post<M: Memory>(&mut self, memory: &M, sq: u16, cid: u16, status: Status, result: u32) {
        if !self.fatal && self.queues.post(memory, sq, cid, status, result).is_err() {
            self.fatal = true;
        }
    }

    /// Posts an error and records it. Refused admin commands are no failures of the volume: Linux asks every
    /// controller for Identify CNS 06h, which came after this specification.
    pub(crate) fn fail<M: Memory>(
        &mut self,
        memory: &M,
        (sq, cid): (u16, u16),
        nsid: u32,
        lba: u64,
        status: Status,
    ) {
        self.stats.failed += u64::from(sq != 0);
        self.errors.command(sq, cid, nsid, lba, status);
        self.post(memory, sq, cid, status.with_more(), 0);
    }

    /// Drops queues and settings. Requests in flight lose their commands with the queues.
    pub(crate) fn disable(&mut self) {
        if self.life == Life::Removed {
            return;
        }
        self.queues.clear();
        self.events.clear();
        self.doomed.clear();
        self.shadow = None;
        self.features = Features::new(&self.config);
        self.shutdown = Shutdown::None;
        self.fatal = false;
        self.life = if self.slots.in_flight() == 0 { Life::Disabled } else { Life::Draining };
    }

    /// The last request of before the reset ended.
    fn drained(&mut self) {
        self.life = Life::Disabled;
        if self.registers.enable() {
            self.enable();
        }
    }

    /// An orderly shutdown: nothing is fetched any more; what is in flight ends; the medium is flushed.
    pub(crate) fn advance_shutdown<B: Backend>(&mut self, backend: &mut B, now: u64) {
        if self.shutdown != Shutdown::Occurring || self.fatal || self.slots.in_flight() != 0 {
            return;
        }
        if !self.config.volatile_write_cache {
            self.shutdown = Shutdown::Complete;
            return;
        }
        self.request.operation = Operation::Flush;
        (self.request.lba, self.request.blocks, self.request.durable) = (0, 0, false);
        self.request.spans.clear();
        self.hand_out(Owner::Shutdown, backend, now);
    }

    /// Gives the prepared request to the backend. Callers have seen a free slot.
    pub(crate) fn hand_out<B: Backend>(&mut self, owner: Owner, backend: &mut B, now: u64) {
        let Request { operation, lba, .. } = self.request;
        let slot = Slot { owner, operation, lba, bytes: self.request.length(), since: now };
        let Some(tag) = self.slots.take(slot) else { return };
        self.stats.begin(operation, now);
        self.request.tag = tag;
        backend.submit(&self.request);
    }
}
