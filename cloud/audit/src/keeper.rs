//! The one thread that writes the log. It takes whatever has come together while it wrote before, and makes all of it
//! durable at once; who brought something is answered after that.

use crate::{
    book::{Book, Input, Kept},
    entry::{Entry, ObservedKind, Record},
    store::{Log, LogError, Snapshot},
    tile::WIDTH,
};
use monitor::Alarm;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};

/// What waits to be written, at most; who brings more waits.
const QUEUE: usize = 1024;
/// How much is written at once.
const BATCH: usize = 256;
/// After so many entries, what is known is kept, so that the next start need not read more than these.
const KEEP_EVERY: u64 = 65_536;
/// So many entries before the kept ones the monitor is shown again.
const REMIND: u64 = 16_384;
/// Alarms younger than this are raised again after a start, in milliseconds: they may not have been sent.
const RAISE_AGAIN: u64 = 60_000;
const KNOWN: &str = "known.json";

/// The log takes nothing more: the process ends, and starts again from what is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written: the service's own log says why")]
pub struct Unwritable;

type Look = Box<dyn FnOnce(&Book) + Send>;

enum Job {
    Take(Input, oneshot::Sender<()>),
    Look(Look),
    Stop,
}

/// The way to the thread.
#[derive(Clone)]
pub struct Keeper {
    jobs: mpsc::Sender<Job>,
    published: watch::Receiver<Arc<Snapshot>>,
    news: watch::Receiver<u64>,
}

impl Keeper {
    /// Puts something into the log; it is durable, and under a checkpoint, when this returns.
    pub async fn take(&self, input: Input) -> Result<(), Unwritable> {
        let (done, wait) = oneshot::channel();
        self.jobs.send(Job::Take(input, done)).await.map_err(|_| Unwritable)?;
        wait.await.map_err(|_| Unwritable)
    }

    /// The same, on a thread that may block.
    pub fn take_blocking(&self, input: Input) -> Result<(), Unwritable> {
        let (done, wait) = oneshot::channel();
        self.jobs.blocking_send(Job::Take(input, done)).map_err(|_| Unwritable)?;
        wait.blocking_recv().map_err(|_| Unwritable)
    }

    /// Puts something into the log without waiting. It is dropped if too much waits.
    pub fn tell(&self, input: Input) -> bool {
        self.jobs.try_send(Job::Take(input, oneshot::channel().0)).is_ok()
    }

    /// Asks what is known.
    pub async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&Book) -> T + Send + 'static,
    ) -> Result<T, Unwritable> {
        let (done, wait) = oneshot::channel();
        let look: Look = Box::new(move |book| drop(done.send(at(book))));
        self.jobs.send(Job::Look(look)).await.map_err(|_| Unwritable)?;
        wait.await.map_err(|_| Unwritable)
    }

    /// The log as it was published last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Waits until the log has an entry at `after` or later that is no read of it. Readers who wait would otherwise
    /// wake each other, and themselves.
    pub async fn news(&mut self, after: u64) -> Result<(), Unwritable> {
        self.news.wait_for(|size| *size > after).await.map(drop).map_err(|_| Unwritable)
    }
}

/// The thread, until it is stopped.
pub struct Thread {
    keeper: Keeper,
    handle: thread::JoinHandle<()>,
}

struct Worker {
    log: Log,
    book: Book,
    file: PathBuf,
    kept_at: u64,
    published: watch::Sender<Arc<Snapshot>>,
    /// How many entries the log has up to the last one that is no read.
    news: watch::Sender<u64>,
    alarms: mpsc::UnboundedSender<Alarm>,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the clock says, in milliseconds of Unix time.
pub fn wall() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Now, in milliseconds of Unix time by the clock as it was when the service started. Who sets it later holds no alarm
/// back, and no gap.
pub fn now() -> u64 {
    static START: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), wall()));
    START.1.saturating_add(milliseconds(START.0.elapsed()))
}

impl Thread {
    /// Reads what the log says, and goes on from there. Alarms go to `alarms` once they are durable.
    pub fn start(
        log: Log,
        mut book: Book,
        state: &Path,
        alarms: mpsc::UnboundedSender<Alarm>,
    ) -> io::Result<Self> {
        let file = state.join(KNOWN);
        read_again(&log, &mut book, &file, &alarms).map_err(io::Error::other)?;
        book.begin(now());
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (published, watching) = watch::channel(log.snapshot().clone());
        let kept_at = book.kept().size;
        let (news, hearing) = watch::channel(kept_at);
        let worker = Worker { log, book, file, kept_at, published, news, alarms };
        let handle = thread::Builder::new().name("keeper".to_owned()).spawn(move || worker.run(queue))?;
        Ok(Self { keeper: Keeper { jobs, published: watching, news: hearing }, handle })
    }

    /// The way to it.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// Writes what waits, keeps what is known, and ends.
    pub fn stop(self) {
        let _ = self.keeper.jobs.blocking_send(Job::Stop);
        let _ = self.handle.join();
    }
}

fn is_read(entry: &Entry) -> bool {
    matches!(&entry.record, Record::Audit(observed) if observed.kind == ObservedKind::Read)
}

fn read_again(
    log: &Log,
    book: &mut Book,
    file: &Path,
    alarms: &mpsc::UnboundedSender<Alarm>,
) -> Result<(), LogError> {
    let snapshot = log.snapshot();
    let kept = fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    match kept {
        Some(kept) if kept.size > snapshot.size() => return Err(LogError::RolledBack(kept.size)),
        Some(kept) => book.restore(kept),
        None => {}
    }
    let (known, now) = (book.kept().size, now());
    let recent = now.saturating_sub(RAISE_AGAIN);
    let first = known.saturating_sub(REMIND) / WIDTH;
    for bundle in first..snapshot.size().div_ceil(WIDTH) {
        for (index, line) in (bundle * WIDTH..).zip(snapshot.entries(bundle)?) {
            let mut entry = Entry::parse(&line).map_err(|_| LogError::Damaged(format!("entry {index}")))?;
            // What was written while the clock was ahead would else hold back what comes until then.
            entry.time = entry.time.min(now);
            if let Record::Alarm(alarm) = &entry.record
                && entry.time >= recent
            {
                let _ = alarms.send(Alarm::clone(alarm));
            }
            if index < known { book.remind(index, &entry) } else { book.recall(&entry) }
        }
    }
    Ok(())
}

/// What is written at once, and who hears of it then.
#[derive(Default)]
struct Batch {
    lines: Vec<Vec<u8>>,
    /// How many lines there are up to the last one that is no read.
    news: u64,
    alarms: Vec<Alarm>,
    waiting: Vec<oneshot::Sender<()>>,
    looks: Vec<Look>,
}

impl Batch {
    fn take(&mut self, job: Job, book: &mut Book) -> Result<(), LogError> {
        match job {
            Job::Take(input, done) => {
                self.enter(book.take(now(), input))?;
                self.waiting.push(done);
            }
            Job::Look(look) => self.looks.push(look),
            Job::Stop => self.enter(book.take(now(), Input::Stop))?,
        }
        Ok(())
    }

    fn enter(&mut self, entries: Vec<Entry>) -> Result<(), LogError> {
        for entry in entries {
            self.lines.push(entry.line().ok_or(LogError::TooLong)?);
            if !is_read(&entry) {
                self.news = self.lines.len() as u64;
            }
            if let Record::Alarm(alarm) = entry.record {
                self.alarms.push(*alarm);
            }
        }
        Ok(())
    }
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                jobs.push(next);
            }
            let stop = jobs.iter().any(|job| matches!(job, Job::Stop));
            if let Err(error) = self.work(jobs) {
                tracing::error!(%error, "the audit log cannot be written");
                // What is known is ahead of what is written: only a new start sets it right.
                std::process::exit(1);
            }
            if stop {
                return self.keep();
            }
        }
    }

    fn work(&mut self, jobs: Vec<Job>) -> Result<(), LogError> {
        let start = self.log.snapshot().size();
        let mut batch = Batch::default();
        for job in jobs {
            batch.take(job, &mut self.book)?;
        }
        if !batch.lines.is_empty() {
            let snapshot = self.log.append(&batch.lines)?.clone();
            self.published.send_replace(snapshot);
        }
        if batch.news > 0 {
            self.news.send_replace(start + batch.news);
        }
        batch.alarms.into_iter().for_each(|alarm| drop(self.alarms.send(alarm)));
        batch.looks.into_iter().for_each(|look| look(&self.book));
        for done in batch.waiting {
            // Who told without waiting has gone.
            let _ = done.send(());
        }
        if self.book.kept().size >= self.kept_at + KEEP_EVERY {
            self.keep();
        }
        Ok(())
    }

    /// Keeps what is known. Without it, the next start reads more.
    fn keep(&mut self) {
        let kept = self.book.kept();
        self.kept_at = kept.size;
        let bytes = serde_json::to_vec(kept).map_err(io::Error::other);
        if let Err(error) = bytes.and_then(|bytes| service::write_atomic(&self.file, &bytes)) {
            tracing::warn!(%error, "what is known could not be kept: the next start takes longer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::Observed,
        note::{Purpose, Signer},
    };
    use ids::HostId;
    use monitor::{Monitor, Rules};
    use service::Key;

    #[tokio::test]
    async fn entries_from_the_future_hold_no_alarm_back() {
        const YEAR: u64 = 365 * 24 * 60 * 60 * 1000;
        let state = tempfile::tempdir().unwrap();
        let signer = Signer::new("log", Purpose::Log, Key::from_seed(&[1; 32]).unwrap()).unwrap();
        let mut log = Log::open(&state.path().join("log"), signer).unwrap();
        let book = || Book::new(Monitor::new(Rules::embedded().unwrap()), 1000, 1000);
        let cut = Observed::of_host(&HostId::from_random(1), crate::book::TRUNCATED, "");
        let cut = || Input::Observed(Box::new(cut.clone()));
        let entries = book().take(now() + YEAR, cut());
        assert!(entries.iter().any(|entry| matches!(entry.record, Record::Alarm(_))));
        log.append(&entries.iter().map(|entry| entry.line().unwrap()).collect::<Vec<_>>()).unwrap();
        let (tell, mut alarms) = mpsc::unbounded_channel();
        let thread = Thread::start(log, book(), state.path(), tell).unwrap();
        while alarms.try_recv().is_ok() {}
        tokio::time::sleep(Duration::from_millis(1100)).await;
        thread.keeper().take(cut()).await.unwrap();
        assert_eq!(alarms.try_recv().unwrap().rule, "log-tampered");
        tokio::task::spawn_blocking(|| thread.stop()).await.unwrap();
    }
}
