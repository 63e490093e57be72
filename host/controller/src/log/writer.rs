//! Group commit: one thread writes for all who wait, so that records which come at the same time share a
//! `fdatasync`.

use super::{BATCH, Entry, Log, LogError};
use host_api::{LogPage, LogStatus};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

struct Job {
    entry: Entry,
    done: mpsc::SyncSender<Result<u64, LogError>>,
}

/// A handle on the log for many threads. The writing thread ends with the last handle.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::SyncSender<Job>,
    log: Arc<Mutex<Log>>,
}

impl Writer {
    /// Starts the writing thread.
    pub fn start(log: Log) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job>(BATCH);
        let log = Arc::new(Mutex::new(log));
        let shared = Arc::clone(&log);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            while let Ok(first) = waiting.recv() {
                let batch: Vec<_> =
                    std::iter::once(first).chain(waiting.try_iter().take(BATCH - 1)).collect();
                let (entries, askers): (Vec<_>, Vec<_>) =
                    batch.into_iter().map(|job| (job.entry, job.done)).unzip();
                let results = shared.lock().unwrap_or_else(PoisonError::into_inner).append(&entries);
                for (asker, result) in askers.into_iter().zip(results) {
                    // Whoever asked may have gone; the record is there all the same.
                    let _ = asker.send(result);
                }
            }
        })?;
        Ok(Self { jobs, log })
    }

    /// Appends one record and waits until it is durable; gives its sequence number.
    pub fn append(&self, entry: Entry) -> Result<u64, LogError> {
        let (done, result) = mpsc::sync_channel(1);
        self.jobs.send(Job { entry, done }).map_err(|_| LogError::Poisoned)?;
        result.recv().map_err(|_| LogError::Poisoned)?
    }

    /// See [`Log::page`]. Who reads keeps no writer waiting.
    pub fn page(&self, after: u64) -> Result<LogPage, LogError> {
        let plan = self.lock().plan(after)?;
        plan.read()
    }

    /// See [`Log::acknowledge`].
    pub fn acknowledge(&self, up_to: u64) -> Result<u64, LogError> {
        self.lock().acknowledge(up_to)
    }

    /// See [`Log::status`].
    pub fn status(&self) -> LogStatus {
        self.lock().status()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
