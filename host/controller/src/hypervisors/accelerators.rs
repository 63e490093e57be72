//! Functions of the host's hardware that instances have for themselves, by family of instance types.

use crate::Refusal;
use instance_types::{InstanceType, MAX_ACCELERATORS};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};
use vfio::{Claim, ClaimError, Descriptors};

/// The slot of a machine's first accelerator; the others come below it, and end above the volumes.
pub(super) const FIRST_SLOT: u8 = 31;
const _: () = assert!(FIRST_SLOT - MAX_ACCELERATORS >= ids::SLOTS);
/// How long the kernel may take to close what a process had that is gone: while everyone waits,
const SOON: Duration = Duration::from_millis(200);
/// and while only the next one to have it waits.
const LATER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// A function of the host's hardware that nobody else can take.
pub trait Function: Debug + Send + Sync {
    /// Descriptors for one machine.
    fn connect(&self) -> Result<Descriptors, ClaimError>;
    /// Takes it and the memory that it reaches back from a machine that is gone.
    fn release(&self) -> Result<(), ClaimError>;
}

impl Function for Claim {
    fn connect(&self) -> Result<Descriptors, ClaimError> {
        self.connect()
    }

    fn release(&self) -> Result<(), ClaimError> {
        self.release()
    }
}

/// Functions of one machine.
pub(super) type Held = Vec<Arc<dyn Function>>;

/// Which there are, and which of them nobody has.
#[derive(Debug, Default)]
pub struct Accelerators(BTreeMap<&'static str, (usize, Held)>);

impl Accelerators {
    /// All of them are free.
    pub fn new(functions: impl IntoIterator<Item = (&'static str, Arc<dyn Function>)>) -> Self {
        let mut families: BTreeMap<_, (usize, Held)> = BTreeMap::new();
        for (family, function) in functions {
            let (all, free) = families.entry(family).or_default();
            *all += 1;
            free.push(function);
        }
        Self(families)
    }

    /// As many as an instance of this type has, or none.
    pub(super) fn take(&mut self, kind: &InstanceType) -> Result<Held, Refusal> {
        if kind.accelerators == 0 {
            return Ok(Held::new());
        }
        let free = self.0.get_mut(kind.family()).map(|(_, free)| free);
        free.and_then(|free| Some(free.split_off(free.len().checked_sub(kind.accelerators.into())?)))
            .ok_or_else(|| Refusal::of("placement.accelerators"))
    }

    /// What an instance of this type had is free again.
    pub(super) fn give_back(&mut self, kind: &InstanceType, functions: Held) {
        if let Some((_, free)) = self.0.get_mut(kind.family()) {
            free.extend(functions);
        }
    }

    /// How many there are in each family, and how many of them are free.
    pub(super) fn room(&self) -> Vec<(&'static str, usize, usize)> {
        self.0.iter().map(|(family, (all, free))| (*family, *all, free.len())).collect()
    }
}

/// Descriptors for one machine. Whose machine before has just ended may hold it a moment longer.
pub(super) fn connect(function: &dyn Function) -> Result<Descriptors, Refusal> {
    patiently(LATER, || function.connect()).map_err(|error| {
        tracing::error!(%error, code = error.code(), "an accelerator cannot be given to an instance");
        Refusal::of(match error {
            ClaimError::Busy(_) => "placement.accelerators",
            _ => "host.failed",
        })
    })
}

/// Takes functions back from a machine that is gone: until then its memory is held for them.
pub(super) fn release(functions: &Held) {
    for function in functions {
        if let Err(error) = patiently(SOON, || function.release()) {
            tracing::warn!(%error, code = error.code(), "an accelerator is not free yet");
        }
    }
}

fn patiently<T>(patience: Duration, mut act: impl FnMut() -> Result<T, ClaimError>) -> Result<T, ClaimError> {
    let end = Instant::now() + patience;
    loop {
        match act() {
            Err(ClaimError::Busy(_)) if Instant::now() < end => sleep(LOOK),
            other => return other,
        }
    }
}
