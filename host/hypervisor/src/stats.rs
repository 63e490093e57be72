//! Counters of a processor's exits, by reason.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use wire::hypervisor::CpuStatistics;

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many nanoseconds more.
    pub fn add_time(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// So many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Exits of one processor, and where its thread's times can be read.
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
    pub wait_ns: Counter,
    schedule: OnceLock<File>,
}

impl Exits {
    /// To be called on the processor's thread, before the process gives up opening files.
    pub(crate) fn begin(&self) {
        match File::open("/proc/thread-self/schedstat") {
            Ok(file) => drop(self.schedule.set(file)),
            Err(error) => tracing::info!(%error, "processor time and steal are not known"),
        }
    }

    /// The numbers.
    pub fn read(&self) -> CpuStatistics {
        let (cpu_ns, steal_ns) = self.times().unzip();
        CpuStatistics {
            port_in: self.port_in.get(),
            port_out: self.port_out.get(),
            mmio_read: self.mmio_read.get(),
            mmio_write: self.mmio_write.get(),
            halt: self.halt.get(),
            interrupted: self.interrupted.get(),
            other: self.other.get(),
            wait_ns: self.wait_ns.get(),
            cpu_ns,
            steal_ns,
        }
    }

    /// Nanoseconds on a processor and waiting for one: the first two numbers of the file.
    fn times(&self) -> Option<(u64, u64)> {
        let mut text = [0; 64];
        let len = self.schedule.get()?.read_at(&mut text, 0).ok()?;
        let mut numbers = std::str::from_utf8(text.get(..len)?).ok()?.split_ascii_whitespace();
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}
