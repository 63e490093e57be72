//! Get and Set Features (§5.13, §5.21). Nothing can be saved: a reset brings every default back.

use crate::admin::Outcome;
use crate::identify::NAMESPACE_NOTICES;
use crate::io::NAMESPACE;
use crate::spec::{ALL_NAMESPACES, Feature, Status, SubmissionEntry};
use crate::{Config, Controller, Memory};

/// What the guest set.
#[derive(Clone)]
pub(crate) struct Features {
    arbitration: u32,
    /// Over and under temperature thresholds, kelvin. There is no sensor, so none is ever crossed.
    temperature: [u16; 2],
    error_recovery: u32,
    pub(crate) write_cache: bool,
    /// I/O submission and completion queues that the guest may create.
    pub(crate) queues: (u16, u16),
    coalescing: u32,
    /// Vectors with coalescing disabled, one bit each.
    uncoalesced: u64,
    atomicity: u32,
    events: u32,
    /// Milliseconds that the guest set, and when.
    timestamp: Option<(u64, u64)>,
}

/// SEL of Get Features.
const SELECT_DEFAULT: u32 = 1;
const SELECT_SAVED: u32 = 2;
const SELECT_CAPABILITIES: u32 = 3;
/// Capability bits.
const CHANGEABLE: u32 = 1 << 2;
const NAMESPACE_SPECIFIC: u32 = 1 << 1;
/// Milliseconds in the Timestamp feature: 48 bits.
const TIMESTAMP_MASK: u64 = (1 << 48) - 1;
/// Timestamp origin: set by the host.
const SET_BY_HOST: u64 = 1 << 49;

impl Features {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            arbitration: 0,
            temperature: [u16::MAX, 0],
            error_recovery: 0,
            write_cache: config.volatile_write_cache,
            queues: (config.io_queues, config.io_queues),
            coalescing: 0,
            uncoalesced: 0,
            atomicity: 0,
            events: 0,
            timestamp: None,
        }
    }

    pub(crate) fn tells_namespace_changes(&self) -> bool {
        self.events & NAMESPACE_NOTICES != 0
    }

    fn timestamp(&self, now: u64) -> u64 {
        let (since_set, origin) = match self.timestamp {
            Some((milliseconds, at)) => (milliseconds + now.saturating_sub(at) / 1_000_000, SET_BY_HOST),
            None => (0, 0),
        };
        since_set & TIMESTAMP_MASK | origin
    }

    fn get(&self, feature: Feature, selector: u32, vectors: u16) -> Result<u32, Status> {
        Ok(match feature {
            Feature::Arbitration => self.arbitration,
            Feature::PowerManagement | Feature::Timestamp => 0,
            Feature::TemperatureThreshold => {
                let (sensor, which) = threshold(selector)?;
                let value = self.temperature.get(which).copied().filter(|_| sensor == 0);
                u32::from(value.ok_or(Status::INVALID_FIELD)?)
            }
            Feature::ErrorRecovery => self.error_recovery,
            Feature::VolatileWriteCache => u32::from(self.write_cache),
            Feature::NumberOfQueues => queue_counts(self.queues),
            Feature::InterruptCoalescing => self.coalescing,
            Feature::InterruptVectorConfiguration => {
                let vector = vector(selector, vectors)?;
                vector | u32::from(self.uncoalesced & 1 << vector != 0) << 16
            }
            Feature::WriteAtomicity => self.atomicity,
            Feature::AsynchronousEvents => self.events,
        })
    }

    fn set(&mut self, feature: Feature, value: u32, vectors: u16) -> Result<(), Status> {
        match feature {
            Feature::Arbitration => self.arbitration = value & 0xffff_ff07,
            // One power state; the workload hint changes nothing.
            Feature::PowerManagement if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            Feature::TemperatureThreshold => {
                let (_, which) = threshold(value)?;
                if let Some(place) = self.temperature.get_mut(which) {
                    *place = (value & 0xffff) as u16;
                }
            }
            // Bit 16 asks for errors on deallocated blocks; there are none.
            Feature::ErrorRecovery if value >> 16 & 1 != 0 => return Err(Status::INVALID_FIELD),
            Feature::ErrorRecovery => self.error_recovery = value & 0xffff,
            Feature::VolatileWriteCache => self.write_cache = value & 1 != 0,
            Feature::InterruptCoalescing => self.coalescing = value & 0xffff,
            Feature::InterruptVectorConfiguration => {
                let bit = 1 << vector(value, vectors)?;
                self.uncoalesced =
                    if value >> 16 & 1 != 0 { self.uncoalesced | bit } else { self.uncoalesced & !bit };
            }
            Feature::WriteAtomicity => self.atomicity = value & 1,
            Feature::AsynchronousEvents => self.events = value & (0xff | NAMESPACE_NOTICES),
            Feature::PowerManagement | Feature::NumberOfQueues | Feature::Timestamp => {}
        }
        Ok(())
    }
}

/// Sensor and index (over, under) that a temperature threshold names: the composite sensor, or all for Set.
fn threshold(dword: u32) -> Result<(u32, usize), Status> {
    match (dword >> 16 & 15, dword >> 20 & 3) {
        (sensor @ (0 | 15), which @ (0 | 1)) => Ok((sensor, which as usize)),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn vector(dword: u32, vectors: u16) -> Result<u32, Status> {
    let vector = dword & 0xffff;
    if vector < u32::from(vectors.min(64)) { Ok(vector) } else { Err(Status::INVALID_FIELD) }
}

/// Both numbers, each one less than meant.
fn queue_counts((submission, completion): (u16, u16)) -> u32 {
    u32::from(completion.saturating_sub(1)) << 16 | u32::from(submission.saturating_sub(1))
}

impl Controller {
    pub(crate) fn get_features<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let feature = self.feature(entry)?;
        if feature == Feature::ErrorRecovery && entry.nsid.get() != NAMESPACE {
            return Err(Status::INVALID_NAMESPACE);
        }
        let select = entry.cdw10.get() >> 8 & 7;
        if select == SELECT_CAPABILITIES {
            let specific = feature == Feature::ErrorRecovery;
            return Ok(Outcome::Done(CHANGEABLE | if specific { NAMESPACE_SPECIFIC } else { 0 }));
        }
        let features = match select {
            0 => self.features.clone(),
            SELECT_DEFAULT | SELECT_SAVED => Features::new(&self.config),
            _ => return Err(Status::INVALID_FIELD),
        };
        if feature == Feature::Timestamp {
            return self.answer(memory, entry, &features.timestamp(now).to_le_bytes(), 8);
        }
        features.get(feature, entry.cdw11.get(), self.config.vectors()).map(Outcome::Done)
    }

    pub(crate) fn set_features<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let feature = self.feature(entry)?;
        if entry.cdw10.get() >> 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        match feature {
            Feature::NumberOfQueues => return self.set_queue_counts(entry.cdw11.get()),
            Feature::Timestamp => {
                let data = self.data::<M, 8>(memory, entry)?;
                self.features.timestamp = Some((u64::from_le_bytes(data) & TIMESTAMP_MASK, now));
            }
            _ => self.features.set(feature, entry.cdw11.get(), self.config.vectors())?,
        }
        Ok(Outcome::Done(0))
    }

    /// The feature that a command names, if it is here and the namespace fits.
    fn feature(&self, entry: &SubmissionEntry) -> Result<Feature, Status> {
        let [code, ..] = entry.cdw10.get().to_le_bytes();
        let feature = Feature::from_code(code).ok_or(Status::INVALID_FIELD)?;
        if feature == Feature::VolatileWriteCache && !self.config.volatile_write_cache {
            return Err(Status::INVALID_FIELD);
        }
        match (feature, entry.nsid.get()) {
            (_, 0 | ALL_NAMESPACES) | (Feature::ErrorRecovery, NAMESPACE) => Ok(feature),
            (_, NAMESPACE) => Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC),
            _ => Err(Status::INVALID_NAMESPACE),
        }
    }

    fn set_queue_counts(&mut self, value: u32) -> Result<Outcome, Status> {
        if self.queues.has_io_queues() {
            return Err(Status::COMMAND_SEQUENCE);
        }
        let wanted = |half: u32| u16::try_from(half & 0xffff).ok()?.checked_add(1);
        let (Some(submission), Some(completion)) = (wanted(value), wanted(value >> 16)) else {
            return Err(Status::INVALID_FIELD);
        };
        let most = self.config.io_queues;
        self.features.queues = (submission.min(most), completion.min(most));
        Ok(Outcome::Done(queue_counts(self.features.queues)))
    }
}
