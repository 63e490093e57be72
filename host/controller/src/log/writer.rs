//! Group commit without a thread of its own: who comes while nobody writes does so, for all who wait, first come
//! first served. A lone caller waits for nobody but the disk, and records that come at the same time share a
//! `fdatasync`.

use super::{BATCH, Entry, Log, LogError};
use host_api::LogStatus;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

/// A handle on the log for many threads.
#[derive(Debug, Clone)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Held while records are on their way to the disk. It is taken before `log`.
    writing: Mutex<()>,
    /// Never held while the disk is waited for, so that readers do not wait for it.
    log: Mutex<Log>,
}

/// Entries that wait, in order.
#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whether somebody writes. When it ends, the first who still waits is told: unless another who runs already is
    /// quicker, the next write is theirs.
    led: bool,
}

impl Queue {
    /// How many entries go together.
    fn batch(&self) -> usize {
        let records = self.jobs.iter().scan(0, |records, job| {
            *records += job.entry.records();
            Some(*records)
        });
        records.take_while(|records| *records <= BATCH).count()
    }
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    tell: mpsc::SyncSender<Turn>,
}

#[derive(Debug)]
enum Turn {
    /// Nobody writes.
    Lead,
    /// It was written.
    Done(Result<u64, LogError>),
}

impl Writer {
    /// Takes over the log.
    pub fn new(log: Log) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), writing: Mutex::default(), log: Mutex::new(log) }))
    }

    /// Appends one entry and waits until it is durable; gives the sequence number of its first record.
    pub fn append(&self, entry: Entry) -> Result<u64, LogError> {
        // Nobody is told more than both turns.
        let (tell, told) = mpsc::sync_channel(2);
        lock(&self.0.queue).jobs.push_back(Job { entry, tell });
        loop {
            self.lead();
            match told.recv().map_err(|_| LogError::Poisoned)? {
                Turn::Lead => {}
                Turn::Done(result) => return result,
            }
        }
    }

    /// Writes what waits, unless somebody does.
    fn lead(&self) {
        let mut queue = lock(&self.0.queue);
        let count = queue.batch();
        if count == 0 || std::mem::replace(&mut queue.led, true) {
            return;
        }
        let (entries, askers): (Vec<_>, Vec<_>) =
            queue.jobs.drain(..count).map(|job| (job.entry, job.tell)).unzip();
        drop(queue);
        let results = self.write(&entries);
        let mut queue = lock(&self.0.queue);
        queue.led = false;
        let next = queue.jobs.front().map(|next| next.tell.clone());
        drop(queue);
        // Whoever asked waits for the answer: a thread that panics takes the process with it.
        let _ = next.map(|next| next.send(Turn::Lead));
        for (asker, result) in askers.into_iter().zip(results) {
            let _ = asker.send(Turn::Done(result));
        }
    }

    fn write(&self, entries: &[Entry]) -> Vec<Result<u64, LogError>> {
        let _writing = lock(&self.0.writing);
        let flight = self.log().take_off(entries);
        let landed = flight.land();
        self.log().landed(flight, landed)
    }

    /// The next records after number `after`, see [`Plan::read`](super::Plan::read). Who reads keeps no writer waiting.
    pub fn page(&self, after: u64) -> Result<Vec<u8>, LogError> {
        let plan = self.log().plan(after)?;
        plan.read()
    }

    /// See [`Log::acknowledge`].
    pub fn acknowledge(&self, up_to: u64) -> Result<u64, LogError> {
        let _writing = lock(&self.0.writing);
        self.log().acknowledge(up_to)
    }

    /// See [`Log::status`].
    pub fn status(&self) -> LogStatus {
        self.log().status()
    }

    /// Keeps records from going to the disk.
    #[cfg(test)]
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.0.writing)
    }

    /// Whether somebody writes, and how many others wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (bool, usize) {
        let queue = lock(&self.0.queue);
        (queue.led, queue.jobs.len())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.0.log)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
