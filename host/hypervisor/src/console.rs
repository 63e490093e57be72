//! The console: what the guest writes is kept for the tenant, and leaves this process sealed to the tenant's key;
//! what the tenant types comes in sealed to this process. Whoever carries it learns how much there is and when.
//!
//! Output is a ring of [`RING`] bytes: a guest that floods it overwrites its own output. Input is taken in the
//! order in which it was sealed and exactly once, [`PENDING`] bytes ahead of the guest at most.

use ids::InstanceId;
use seal::console::{ConsoleKey, Direction, Place, output_in, seal_output};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wire::hypervisor::MAX_CONSOLE;

/// Bytes of output that are kept.
pub const RING: usize = 64 * 1024;
/// Bytes of input that wait for the guest.
pub const PENDING: usize = 4096;

/// Takes what the guest writes to its serial port.
pub trait Output: Send {
    /// Bytes in the order in which the guest wrote them. Never waits.
    fn put(&mut self, bytes: &[u8]);
}

/// Why there is no output, or input was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The instance was started without a key of its tenant.
    #[error("the instance was started without a console key, so it keeps no console")]
    None,
    /// More than [`PENDING`] bytes wait already.
    #[error("the guest has not read what was typed before: send it again later")]
    Full,
    /// The message.
    #[error(transparent)]
    Seal(#[from] seal::console::ConsoleError),
}

impl ConsoleError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::None => "console.none",
            Self::Full => "console.full",
            Self::Seal(error) => error.code(),
        }
    }
}

/// What goes to another process with the machine. It is customer content.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleState {
    written: u64,
    accepted: u64,
    kept: VecDeque<u8>,
    pending: VecDeque<u8>,
}

struct Sides {
    instance: InstanceId,
    key: ConsoleKey,
    tenant: Vec<u8>,
}

impl Sides {
    fn seal(&self, at: u64, accepted: u64, bytes: &[u8]) -> Result<Vec<u8>, ConsoleError> {
        Ok(seal_output(&self.key, &self.tenant, &self.instance, at, accepted, bytes)?)
    }
}

/// The console of one instance. Clones are the same console.
#[derive(Clone)]
pub struct Console {
    sides: Option<Arc<Sides>>,
    state: Arc<Mutex<ConsoleState>>,
}

impl Console {
    /// With the tenant's public key; without it nothing is kept.
    pub fn new(instance: InstanceId, tenant: Option<Vec<u8>>) -> Result<Self, ConsoleError> {
        Self::restore(instance, tenant, ConsoleState::default())
    }

    /// Goes on with the state of another process, under a key of this one.
    pub fn restore(
        instance: InstanceId,
        tenant: Option<Vec<u8>>,
        mut state: ConsoleState,
    ) -> Result<Self, ConsoleError> {
        let sides = |tenant| Ok(Sides { instance, key: ConsoleKey::generate()?, tenant });
        let sides = tenant.map(sides).transpose().map_err(ConsoleError::Seal)?.map(Arc::new);
        let surplus = state.kept.len().saturating_sub(RING);
        state.kept.drain(..surplus);
        state.pending.truncate(PENDING);
        state.written = state.written.max(state.kept.len() as u64);
        if let Some(sides) = &sides {
            // A key that is none is refused now, not when the tenant wants to read.
            sides.seal(0, 0, &[])?;
        }
        Ok(Self { sides, state: Arc::new(Mutex::new(state)) })
    }

    /// What another process needs to go on.
    pub fn state(&self) -> ConsoleState {
        self.lock().clone()
    }

    /// Output from byte `after` on, as far as it is kept and fits a message: where it ends, and the message, which
    /// is empty if there is no new output.
    pub fn read(&self, after: u64) -> Result<(u64, Vec<u8>), ConsoleError> {
        let sides = self.sides.as_ref().ok_or(ConsoleError::None)?;
        let (at, accepted, bytes) = {
            let state = self.lock();
            let kept = state.kept.len();
            let oldest = state.written - kept as u64;
            let at = after.clamp(oldest, state.written);
            let skip = usize::try_from(at - oldest).unwrap_or(kept);
            let bytes: Vec<u8> = state.kept.iter().skip(skip).take(output_in(MAX_CONSOLE)).copied().collect();
            (at, state.accepted, bytes)
        };
        let message = if bytes.is_empty() { Vec::new() } else { sides.seal(at, accepted, &bytes)? };
        Ok((at + bytes.len() as u64, message))
    }

    /// Takes sealed input. It waits until [`Self::feed`] has room for it.
    pub fn write(&self, message: &[u8]) -> Result<(), ConsoleError> {
        let sides = self.sides.as_ref().ok_or(ConsoleError::None)?;
        let mut state = self.lock();
        let place = Place { instance: &sides.instance, direction: Direction::Input, at: state.accepted };
        let bytes = sides.key.open(&sides.tenant, place, message)?;
        if bytes.len() > PENDING.saturating_sub(state.pending.len()) {
            return Err(ConsoleError::Full);
        }
        state.accepted = state.accepted.saturating_add(bytes.len() as u64);
        state.pending.extend(bytes);
        Ok(())
    }

    /// Hands waiting input to `room`, which says how many bytes it took. True if some still waits.
    pub fn feed(&self, room: impl FnOnce(&[u8]) -> usize) -> bool {
        let mut state = self.lock();
        if state.pending.is_empty() {
            return false;
        }
        let took = room(state.pending.make_contiguous()).min(state.pending.len());
        state.pending.drain(..took);
        !state.pending.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, ConsoleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for Console {
    fn put(&mut self, bytes: &[u8]) {
        if self.sides.is_none() {
            return;
        }
        let mut state = self.lock();
        state.written = state.written.saturating_add(bytes.len() as u64);
        let bytes = bytes.get(bytes.len().saturating_sub(RING)..).unwrap_or_default();
        let surplus = (state.kept.len() + bytes.len()).saturating_sub(RING);
        state.kept.drain(..surplus);
        state.kept.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use seal::console::Tenant;

    fn pair() -> (Console, Tenant) {
        let instance = InstanceId::from_random(1);
        let tenant = Tenant::new(instance.clone()).unwrap();
        (Console::new(instance, Some(tenant.public_key().to_vec())).unwrap(), tenant)
    }

    /// Reads to the end as a tenant does.
    fn drain(console: &Console, tenant: &mut Tenant, after: &mut u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let (next, message) = console.read(*after).unwrap();
            assert!(message.len() <= MAX_CONSOLE);
            *after = next;
            if message.is_empty() {
                return all;
            }
            all.extend(tenant.open(next, &message).unwrap().bytes);
        }
    }

    proptest! {
        /// Whatever the guest writes and whenever the tenant reads: everything comes once and in order, but for what
        /// was overwritten before it was read.
        #[test]
        fn output_comes_once_and_in_order(
            writes in prop::collection::vec((0..100_000_usize, any::<bool>()), 1..12),
        ) {
            let (mut console, mut tenant) = pair();
            let (mut written, mut after) = (0_u64, 0);
            for (len, read) in writes {
                let byte = |at: u64| (at % 251).to_le_bytes()[0];
                let bytes: Vec<u8> = (written..written + len as u64).map(byte).collect();
                console.put(&bytes);
                written += len as u64;
                if read {
                    let first = after.max(written.saturating_sub(RING as u64));
                    let got = drain(&console, &mut tenant, &mut after);
                    prop_assert_eq!(after, written);
                    prop_assert!(got.into_iter().eq((first..written).map(byte)));
                }
                prop_assert!(console.lock().kept.len() <= RING);
            }
        }

        #[test]
        fn no_message_and_no_place_upsets_it(after: u64, message in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut console, _) = pair();
            console.put(b"x");
            prop_assert!(console.read(after).unwrap().0 <= 1);
            prop_assert_eq!(console.write(&message).unwrap_err().code(), "console.sealed");
        }
    }

    #[test]
    fn input_reaches_the_guest_once_and_in_order() {
        let (mut console, mut tenant) = pair();
        console.put(b"login: ");
        drain(&console, &mut tenant, &mut 0);
        let typed = tenant.seal(b"root\n").unwrap().unwrap();
        let more = tenant.seal(b"id\n").unwrap().unwrap();
        assert_eq!(console.write(&more).unwrap_err().code(), "console.sealed", "out of order");
        console.write(&typed).unwrap();
        assert_eq!(console.write(&typed).unwrap_err().code(), "console.sealed", "again");
        console.write(&more).unwrap();
        let mut guest = Vec::<u8>::new();
        let mut take = |most: usize| {
            console.feed(|bytes| {
                guest.extend(&bytes[..most.min(bytes.len())]);
                most
            })
        };
        assert!(take(3));
        assert!(!take(64));
        assert!(!take(64));
        assert_eq!(guest, b"root\nid\n");
    }

    #[test]
    fn input_that_has_no_room_is_refused_whole_and_may_come_again() {
        let (mut console, mut tenant) = pair();
        console.put(b"$ ");
        drain(&console, &mut tenant, &mut 0);
        console.write(&tenant.seal(&[b'a'; PENDING]).unwrap().unwrap()).unwrap();
        let late = tenant.seal(b"b").unwrap().unwrap();
        assert_eq!(console.write(&late).unwrap_err().code(), "console.full");
        assert!(!console.feed(<[u8]>::len));
        console.write(&late).unwrap();
        assert!(!console.feed(|bytes| {
            assert_eq!(bytes, b"b");
            1
        }));
    }

    #[test]
    fn another_process_goes_on_where_the_first_one_stopped() {
        let (mut console, mut tenant) = pair();
        console.put(b"one ");
        let mut after = 0;
        drain(&console, &mut tenant, &mut after);
        console.write(&tenant.seal(b"typed").unwrap().unwrap()).unwrap();
        console.put(b"two");
        let (instance, key) = (InstanceId::from_random(1), tenant.public_key().to_vec());
        let text = serde_json::to_string(&console.state()).unwrap();
        let mut other = Console::restore(instance, Some(key), serde_json::from_str(&text).unwrap()).unwrap();
        let (next, message) = other.read(after).unwrap();
        assert_eq!(tenant.open(next, &message).unwrap_err().code(), "console.machine");
        tenant.trust(None);
        assert_eq!(drain(&other, &mut tenant, &mut after), b"two");
        other.write(&tenant.seal(b"!").unwrap().unwrap()).unwrap();
        assert!(!other.feed(|bytes| {
            assert_eq!(bytes, b"typed!");
            bytes.len()
        }));
        other.put(b".");
        assert_eq!(drain(&other, &mut tenant, &mut after), b".");
    }

    #[test]
    fn without_a_key_nothing_is_kept_and_with_none_it_does_not_start() {
        let mut console = Console::new(InstanceId::from_random(1), None).unwrap();
        console.put(b"secret");
        assert!(console.lock().kept.is_empty());
        assert_eq!(console.read(0).unwrap_err().code(), "console.none");
        assert_eq!(console.write(&[]).unwrap_err().code(), "console.none");
        let error = Console::new(InstanceId::from_random(1), Some(vec![0; 32])).err().unwrap();
        assert_eq!(error.code(), "console.public-key");
    }
}
