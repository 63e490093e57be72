//! Counters of a processor's exits, by reason.

use std::sync::atomic::{AtomicU64, Ordering};
use wire::hypervisor::CpuStatistics;

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Exits of one processor.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the names are those of CpuStatistics")]
pub struct Exits {
    pub port_in: Counter,
    pub port_out: Counter,
    pub mmio_read: Counter,
    pub mmio_write: Counter,
    pub halt: Counter,
    pub interrupted: Counter,
    pub other: Counter,
}

impl Exits {
    /// The numbers, without times.
    pub fn read(&self) -> CpuStatistics {
        CpuStatistics {
            port_in: self.port_in.get(),
            port_out: self.port_out.get(),
            mmio_read: self.mmio_read.get(),
            mmio_write: self.mmio_write.get(),
            halt: self.halt.get(),
            interrupted: self.interrupted.get(),
            other: self.other.get(),
            ..CpuStatistics::default()
        }
    }
}
