//! Counters: what SMART and the EBS statistics page report.

use crate::Operation;
use crate::slots::Slot;
use crate::spec::Status;
use crate::spec::log::{HISTOGRAM_BINS, Health, Histogram, STATISTICS_MAGIC, VolumeStatistics};
use zerocopy::FromZeros;

/// Latency bins: under 1 µs, then one for each power of two, the last (from 2^22 µs, about 4 s) open.
const BINS: usize = 24;
const _: () = assert!(BINS <= HISTOGRAM_BINS);

/// Counters of one direction.
#[derive(Default)]
pub(crate) struct Direction {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    nanoseconds: u64,
    latency: [u64; BINS],
}

impl Direction {
    fn count(&mut self, bytes: u64, nanoseconds: u64) {
        self.operations += 1;
        self.bytes = self.bytes.wrapping_add(bytes);
        self.nanoseconds = self.nanoseconds.wrapping_add(nanoseconds);
        let bin = (nanoseconds / 1000).checked_ilog2().map_or(0, |log| log as usize + 1);
        if let Some(count) = self.latency.get_mut(bin.min(BINS - 1)) {
            *count += 1;
        }
    }

    fn histogram(&self, into: &mut Histogram) {
        into.bins.set(BINS as u64);
        for (index, (bin, count)) in into.bin.iter_mut().zip(self.latency).enumerate() {
            bin.lower.set(if index == 0 { 0 } else { 1 << (index - 1) });
            bin.upper.set(if index == BINS - 1 { u64::MAX } else { 1 << index });
            bin.count.set(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

/// All counters of a controller. They live as long as the function, resets included.
pub(crate) struct Stats {
    pub(crate) reads: Direction,
    pub(crate) writes: Direction,
    /// I/O commands completed with an error.
    pub(crate) failed: u64,
    media_errors: u64,
    /// Reads and writes that the backend holds.
    queue_length: u64,
    /// Requests of any kind that the backend holds, and since when there were some.
    outstanding: u64,
    busy_since: u64,
    busy: u64,
    power_on: u64,
}

impl Stats {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            reads: Direction::default(),
            writes: Direction::default(),
            failed: 0,
            media_errors: 0,
            queue_length: 0,
            outstanding: 0,
            busy_since: 0,
            busy: 0,
            power_on: now,
        }
    }

    pub(crate) fn begin(&mut self, operation: Operation, now: u64) {
        if self.outstanding == 0 {
            self.busy_since = now;
        }
        self.outstanding += 1;
        self.queue_length += u64::from(is_transfer(operation));
    }

    pub(crate) fn end(&mut self, slot: &Slot, status: Status, now: u64) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.busy += now.saturating_sub(self.busy_since);
        }
        self.queue_length = self.queue_length.saturating_sub(u64::from(is_transfer(slot.operation)));
        let took = now.saturating_sub(slot.since);
        match (status.is_success(), slot.operation) {
            (true, Operation::Read) => self.reads.count(slot.bytes, took),
            (true, Operation::Write) => self.writes.count(slot.bytes, took),
            (true, _) => {}
            (false, _) => self.media_errors += u64::from(status.kind() == 2),
        }
    }

    pub(crate) fn volume_page(&self) -> VolumeStatistics {
        let mut page = VolumeStatistics::new_zeroed();
        page.magic.set(STATISTICS_MAGIC);
        page.read_operations.set(self.reads.operations);
        page.write_operations.set(self.writes.operations);
        page.read_bytes.set(self.reads.bytes);
        page.write_bytes.set(self.writes.bytes);
        page.read_time.set(self.reads.nanoseconds / 1000);
        page.write_time.set(self.writes.nanoseconds / 1000);
        page.queue_length.set(self.queue_length);
        self.reads.histogram(&mut page.read_latency);
        self.writes.histogram(&mut page.write_latency);
        page
    }

    pub(crate) fn health_page(&self, errors: u64, now: u64) -> Health {
        const MINUTE: u64 = 60_000_000_000;
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
        let running = if self.outstanding > 0 { now.saturating_sub(self.busy_since) } else { 0 };
        let mut page = Health::new_zeroed();
        page.available_spare = 100;
        page.data_units_read.set(units(self.reads.bytes));
        page.data_units_written.set(units(self.writes.bytes));
        page.host_reads.set(self.reads.operations.into());
        page.host_writes.set(self.writes.operations.into());
        page.busy_time.set(((self.busy + running) / MINUTE).into());
        page.power_cycles.set(1);
        page.power_on_hours.set((now.saturating_sub(self.power_on) / (60 * MINUTE)).into());
        page.media_errors.set(self.media_errors.into());
        page.error_entries.set(errors.into());
        page
    }
}

fn is_transfer(operation: Operation) -> bool {
    matches!(operation, Operation::Read | Operation::Write)
}
