//! The controller: registers, queues, and the commands in flight.

use crate::spec::Status;
use crate::{Backend, Config, ConfigError, Memory, Tag};

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

/// An NVMe controller with one namespace.
///
/// All times are nanoseconds of one monotonic clock.
pub struct Controller {}

impl Controller {
    /// Makes a controller, disabled. `now` is the start of its power-on time.
    pub fn new(config: Config, now: u64) -> Result<Self, ConfigError> {
        config.check()?;
        let _ = now;
        Ok(Self {})
    }

    /// Reads BAR0: registers in 4- or 8-byte (or smaller) pieces. What is not a register reads as zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let _ = offset;
        into.fill(0);
    }

    /// Writes BAR0: registers and doorbells, in aligned pieces of 4 or 8 bytes; others are ignored.
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Effect {
        let _ = (offset, from);
        Effect::None
    }

    /// Looks at every queue: executes admin commands, hands at most `budget` I/O commands to `backend`.
    /// Gives the number handed out. Less than `budget` means that nothing more is there for now.
    pub fn poll<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        budget: usize,
        now: u64,
    ) -> usize {
        let _ = (memory, backend, budget, now);
        0
    }

    /// Gives back a request. Unknown tags are ignored.
    pub fn complete<M: Memory>(&mut self, memory: &M, tag: Tag, status: Status, now: u64) {
        let _ = (memory, tag, status, now);
    }

    /// Before sleeping: asks the guest for a doorbell write at the next command (shadow doorbells), then looks
    /// again. `false`: there is work, poll instead.
    pub fn arm<M: Memory>(&mut self, memory: &M) -> bool {
        let _ = memory;
        true
    }

    /// The vectors to fire since the last call: one for each completion queue that has new entries and
    /// interrupts enabled.
    pub fn take_interrupts(&mut self) -> Vectors {
        Vectors(0)
    }

    /// Function level or device reset: all registers to their defaults. Requests in flight stay with the backend;
    /// wait for `state().in_flight == 0` before answering the reset.
    pub fn reset(&mut self) {}

    /// The function is gone: registers read as ones, nothing is fetched or posted any more. Requests in flight stay
    /// with the backend until completed.
    pub fn surprise_remove(&mut self) {}

    /// Changes the size of the namespace and tells the guest, if it asked to be told.
    pub fn resize(&mut self, blocks: u64) -> Result<(), ConfigError> {
        let _ = blocks;
        Ok(())
    }

    /// What the controller is doing.
    pub fn state(&self) -> State {
        State {
            enabled: false,
            shutdown: Shutdown::None,
            fatal: false,
            removed: false,
            shadow_doorbells: false,
            in_flight: 0,
        }
    }

    /// Completed reads, completed writes, failed commands.
    pub fn counters(&self) -> (u64, u64, u64) {
        (0, 0, 0)
    }

    /// The submission queues there are, by identifier.
    pub fn queues(&self) -> impl Iterator<Item = QueueState> {
        std::iter::empty()
    }
}
