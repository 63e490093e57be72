//! Group commit without a thread of its own: who comes first writes, for all who have come by then; who comes
//! meanwhile waits, and the first of them writes next. A lone caller waits for nobody but the disk, and records that
//! come at the same time share a `fdatasync`.

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

/// Entries that wait, first come first served. While somebody leads, the others are told when it is their turn.
#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    led: bool,
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    tell: mpsc::SyncSender<Turn>,
}

#[derive(Debug)]
enum Turn {
    /// Write what waits.
    Lead,
    /// It was written.
    Done(Result<u64, LogError>),
}

impl Writer {
    /// Takes over the log.
    pub fn new(log: Log) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), writing: Mutex::default(), log: Mutex::new(log) }))
    }

    /// Appends one record and waits until it is durable; gives its sequence number.
    pub fn append(&self, entry: Entry) -> Result<u64, LogError> {
        let (tell, told) = mpsc::sync_channel(1);
        let mut queue = lock(&self.0.queue);
        queue.jobs.push_back(Job { entry, tell });
        let leads = !std::mem::replace(&mut queue.led, true);
        drop(queue);
        if leads {
            self.lead();
        }
        loop {
            match told.recv().map_err(|_| LogError::Poisoned)? {
                Turn::Lead => self.lead(),
                Turn::Done(result) => return result,
            }
        }
    }

    /// Writes what waits, at least the first, and hands over to the next.
    fn lead(&self) {
        let writing = lock(&self.0.writing);
        let mut queue = lock(&self.0.queue);
        let count = queue.jobs.len().min(BATCH);
        let (entries, askers): (Vec<_>, Vec<_>) =
            queue.jobs.drain(..count).map(|job| (job.entry, job.tell)).unzip();
        drop(queue);
        let flight = self.log().take_off(&entries);
        let landed = flight.land();
        let results = self.log().landed(flight, landed);
        drop(writing);
        let mut queue = lock(&self.0.queue);
        // Whoever asked waits for the answer, and a thread that is gone has taken the process with it.
        match queue.jobs.front() {
            Some(next) => drop(next.tell.send(Turn::Lead)),
            None => queue.led = false,
        }
        drop(queue);
        for (asker, result) in askers.into_iter().zip(results) {
            let _ = asker.send(Turn::Done(result));
        }
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

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.0.log)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
