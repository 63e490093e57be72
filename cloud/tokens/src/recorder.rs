//! The ledger and its store: requests of the same moment become durable in one commit.

use crate::{
    Entry, Kind, Page, Standing,
    keyring::KeyringError,
    ledger::{Capacity, Charge, Ledger, Permit, Refused, Write},
    store::{Found, KeyChange, Step, Store, StoreError},
};
use aws_lc_rs::digest::{SHA256, digest};
use ids::HostId;
use rights::{Reviewed, SetHash};
use std::{
    collections::BTreeMap,
    iter,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};
use tokio::sync::oneshot;

/// Most steps in one commit.
const MAX_BATCH: usize = 512;

/// Journal entries that the service holds until they are acknowledged, if nothing else is said.
pub const JOURNAL_CAPACITY: u64 = 100_000;

/// Another rights configuration is in force.
const CHANGED: &str = "policy.changed";
/// Others may review than before.
const REVIEWERS: &str = "policy.reviewers";
/// Longest text about a rights configuration, in characters.
const MAX_DETAIL: usize = 400;

/// What is written down: quota, decision, keys. Nothing is signed and nobody is told before it is durable.
#[derive(Clone)]
pub struct Recorder {
    ledger: Arc<Mutex<Ledger>>,
    store: Arc<Store>,
    /// Locked while a step is numbered and sent, so that steps come in the order of their numbers.
    jobs: Sender<Job>,
}

struct Job {
    step: Step,
    done: oneshot::Sender<Option<Permit>>,
}

/// A store that is open, before its thread is started: threads come after the sandbox.
pub struct Opened {
    ledger: Ledger,
    store: Store,
}

impl Opened {
    /// Opens the store, or makes a new one. The journal holds `capacity` entries.
    pub fn open(path: &Path, capacity: u64) -> Result<Self, StoreError> {
        let store = Store::open(path)?;
        // Who is known but has no rights, and who is not known at all, leave room to the others.
        let capacity = Capacity { entries: capacity, refusals: capacity / 4 * 3, strangers: capacity / 2 };
        let ledger = Ledger::restart(capacity, store.durable()?);
        Ok(Self { ledger, store })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Changes the keys while nothing else happens.
    pub(crate) fn change_keys(&mut self, change: KeyChange, mut entry: Entry) -> Result<(), KeyringError> {
        let write = self.ledger.note()?;
        let seq = write.seq;
        entry.seq = seq;
        let (entry, keys) = (Box::new(entry), Some(change));
        self.store.commit(&[&Step::Write { write, entry, keys, standing: None }])?;
        self.ledger.durable(seq);
        Ok(())
    }

    /// What hosts were last found to be.
    pub fn hosts(&self) -> Result<BTreeMap<HostId, Standing>, StoreError> {
        self.store.hosts()
    }

    /// The rights configuration that was in force last, if there was one, and the number of its review.
    pub fn rights(&self) -> Result<Option<(SetHash, u64)>, StoreError> {
        self.store.rights()
    }

    /// Puts a rights configuration into force; that it is another one than before is written down, with who reviewed
    /// it.
    pub fn put_in_force(&mut self, reviewed: &Reviewed) -> Result<(), StoreError> {
        let Reviewed { set, number, .. } = *reviewed;
        match self.store.rights()? {
            Some((before, _)) if before == set => Ok(()),
            Some((before, _)) => {
                self.write_down(CHANGED, &reviewed.change(&before), Some(&Step::Rights(set, number)))
            }
            None => self.store.commit(&[&Step::Rights(set, number)]),
        }
    }

    /// Learns who may review, from the text of their list; that they are others than before is written down.
    pub fn reviewers_are(&mut self, list: &str) -> Result<(), StoreError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, list.as_bytes()).as_ref());
        match self.store.reviewers()? {
            Some(before) if before == hash => Ok(()),
            Some(_) => {
                let detail = "the list of reviewers is another one than at the last start";
                self.write_down(REVIEWERS, detail, Some(&Step::Reviewers(hash)))
            }
            None => self.store.commit(&[&Step::Reviewers(hash)]),
        }
    }

    /// Writes down that a rights configuration was refused.
    pub fn refuse_rights(&mut self, code: &str, why: &str) -> Result<(), StoreError> {
        self.write_down(code, why, None)
    }

    fn write_down(&mut self, code: &str, detail: &str, more: Option<&Step>) -> Result<(), StoreError> {
        let write = self.ledger.refuse(true).map_err(|error| StoreError(error.to_string()))?;
        let seq = write.seq;
        let detail = Some(detail.chars().take(MAX_DETAIL).collect());
        let entry = Entry { seq, code: Some(code.to_owned()), detail, ..Entry::new(Kind::Incident) };
        let write = Step::Write { write, entry: Box::new(entry), keys: None, standing: None };
        self.store.commit(&iter::once(&write).chain(more).collect::<Vec<_>>())?;
        self.ledger.durable(seq);
        Ok(())
    }

    /// Starts the thread that writes.
    pub fn start(self) -> Recorder {
        let (jobs, queue) = channel();
        let recorder =
            Recorder { ledger: Arc::new(Mutex::new(self.ledger)), store: Arc::new(self.store), jobs };
        let (ledger, store) = (recorder.ledger.clone(), recorder.store.clone());
        thread::spawn(move || write(&ledger, &store, &queue));
        recorder
    }
}

impl Recorder {
    /// Takes the quotas and writes the entry down; its number is filled in.
    pub(crate) async fn grant(&self, charges: &[Charge], now: u64, entry: Entry) -> Result<Permit, Refused> {
        let done = self.submit(|ledger| ledger.grant(charges, now), entry, None, None)?;
        done.await.ok().flatten().ok_or(Refused::Broken)
    }

    /// Writes a refusal or an incident down. `known` says whether it is known whose.
    pub(crate) async fn refuse(&self, known: bool, entry: Entry) -> Result<(), Refused> {
        let done = self.submit(|ledger| ledger.refuse(known), entry, None, None)?;
        done.await.map(drop).map_err(|_| Refused::Broken)
    }

    /// The same, for a thread that may block.
    pub(crate) fn refuse_blocking(&self, known: bool, entry: Entry) -> Result<(), Refused> {
        let done = self.submit(|ledger| ledger.refuse(known), entry, None, None)?;
        done.blocking_recv().map(drop).map_err(|_| Refused::Broken)
    }

    /// Changes the keys, for a thread that may block.
    pub(crate) fn change_keys_blocking(&self, change: KeyChange, entry: Entry) -> Result<(), Refused> {
        let done = self.submit(Ledger::note, entry, Some(change), None)?;
        done.blocking_recv().map(drop).map_err(|_| Refused::Broken)
    }

    /// Writes down what a host was found to be, in the order of calls; what it gives is done when that is durable.
    pub(crate) fn appraised(
        &self,
        entry: Entry,
        found: Found,
    ) -> Result<impl Future<Output = Result<(), Refused>> + use<>, Refused> {
        let done = self.submit(Ledger::note, entry, None, Some(Box::new(found)))?;
        Ok(async { done.await.map(drop).map_err(|_| Refused::Broken) })
    }

    /// Lets the entries up to `up_to` go; gives up to which they are gone.
    pub(crate) async fn acknowledge(&self, up_to: u64) -> Result<u64, Refused> {
        let (up_to, done) = {
            let mut ledger = self.ledger();
            let up_to = ledger.acknowledge(up_to);
            (up_to, self.send(Step::Acknowledge(up_to))?)
        };
        done.await.map(|_| up_to).map_err(|_| Refused::Broken)
    }

    /// Entries after `after`. Blocks.
    pub(crate) fn page(&self, after: u64) -> Result<Page, StoreError> {
        self.store.page(after)
    }

    /// The signed key sets that are kept. Blocks.
    pub(crate) fn sets(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.sets()
    }

    fn submit(
        &self,
        decide: impl FnOnce(&mut Ledger) -> Result<Write, Refused>,
        mut entry: Entry,
        keys: Option<KeyChange>,
        standing: Option<Box<Found>>,
    ) -> Result<oneshot::Receiver<Option<Permit>>, Refused> {
        let mut ledger = self.ledger();
        let write = decide(&mut ledger)?;
        (entry.seq, entry.quota) = (write.seq, write.fullest());
        self.send(Step::Write { write, entry: Box::new(entry), keys, standing })
    }

    fn send(&self, step: Step) -> Result<oneshot::Receiver<Option<Permit>>, Refused> {
        let (done, wait) = oneshot::channel();
        self.jobs.send(Job { step, done }).map_err(|_| Refused::Broken)?;
        Ok(wait)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that writes. After a failure nothing is written any more: whoever waits finds their channel closed.
fn write(ledger: &Mutex<Ledger>, store: &Store, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Job> = iter::once(first).chain(queue.try_iter()).take(MAX_BATCH).collect();
        let steps: Vec<&Step> = batch.iter().map(|job| &job.step).collect();
        if let Err(error) = store.commit(&steps) {
            tracing::error!(%error, "the journal cannot be written: nothing is signed any more");
            lock(ledger).broke();
            return;
        }
        for Job { step, done } in batch {
            let permit = match &step {
                Step::Write { write, .. } => {
                    let mut ledger = lock(ledger);
                    ledger.durable(write.seq);
                    ledger.permit(write)
                }
                Step::Acknowledge(_) | Step::Rights(..) | Step::Reviewers(_) => None,
            };
            // Who asked may have gone.
            let _ = done.send(permit);
        }
    }
}
