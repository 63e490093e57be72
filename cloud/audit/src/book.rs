//! What the audit service knows, all of it from the log's own entries: how far each source was read, what waits for
//! its other side, what the monitor has seen. Sans-IO: entries in, further entries out. Read again from the log it
//! comes to the same state, so a service that was killed forgets nothing and raises nothing twice.

use crate::{
    entry::{Attempt, Entry, HostRecord, Observed, ObservedKind, Record},
    reconcile::{GapKind, Reconciler},
    throttle::Throttle,
    watch::observation,
};
use host_api::{LogPage, LogReader, LogRecord, MAX_RECORD, Refuted};
use ids::HostId;
use monitor::{Alarm, Monitor};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    iter,
};
use token::PublicKey;

/// Alarms whose places in the log are kept at hand.
pub const MAX_ALARMS: usize = 4096;

/// Longest entry of the journal that is taken, in bytes.
const MAX_DECISION: usize = 16 * 1024;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A page of a host's log, as asked for after what was known of it. The asking began at `began`.
    Page {
        /// Whose.
        host: HostId,
        /// The page.
        page: Box<LogPage>,
        /// In milliseconds of Unix time.
        began: u64,
    },
    /// A page of the token service's journal.
    Journal {
        /// The page.
        page: Box<tokens::Page>,
        /// When the asking began, in milliseconds of Unix time.
        began: u64,
    },
    /// Callers' attempts.
    Attempts(Vec<Attempt>),
    /// Something that the audit service did or found.
    Observed(Box<Observed>),
    /// Somebody was refused. Too many of the same are counted instead of listed ([`crate::throttle`]).
    Refused(Box<Observed>),
    /// The hosts that there are, and their public keys, from who certifies them.
    Hosts(BTreeMap<HostId, PublicKey>),
    /// Time passes.
    Tick,
    /// The service stops.
    Stop,
}

/// How far a host's log was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Host {
    key: PublicKey,
    seq: u64,
    hash: [u8; 32],
    /// What is wrong with its log, until it is right again.
    disputed: Option<String>,
    silent: bool,
    #[serde(skip)]
    reader: Option<LogReader>,
    /// When it was last heard, in this run.
    #[serde(skip)]
    heard: u64,
}

/// What is kept between runs; the monitor learns anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// How many entries it is made from.
    pub size: u64,
    hosts: BTreeMap<HostId, Host>,
    journal: u64,
    /// What is wrong with the journal, until it is right again.
    journal_trouble: Option<String>,
    reconciler: Reconciler,
    alarms: VecDeque<u64>,
}

/// The state.
pub struct Book {
    kept: Kept,
    monitor: Monitor,
    throttle: Throttle,
    expected: BTreeSet<HostId>,
    journal_heard: u64,
    /// A source that was not heard for so long is silent, in milliseconds.
    silence: u64,
    now: u64,
}

impl Book {
    /// Knows nothing yet.
    pub fn new(monitor: Monitor, grace: u64, silence: u64) -> Self {
        let kept = Kept {
            size: 0,
            hosts: BTreeMap::new(),
            journal: 0,
            journal_trouble: None,
            reconciler: Reconciler::new(grace),
            alarms: VecDeque::new(),
        };
        let (throttle, expected) = (Throttle::default(), BTreeSet::new());
        Self { kept, monitor, throttle, expected, journal_heard: 0, silence, now: 0 }
    }

    /// Goes on from what an earlier run kept.
    pub fn restore(&mut self, kept: Kept) {
        self.kept = kept;
    }

    /// What to keep.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// How far a host's log was read.
    pub fn host(&self, host: &HostId) -> u64 {
        self.kept.hosts.get(host).map_or(0, |host| host.seq)
    }

    /// How far the journal was read.
    pub fn journal(&self) -> u64 {
        self.kept.journal
    }

    /// Where the latest alarms are in the log.
    pub fn alarms(&self) -> &VecDeque<u64> {
        &self.kept.alarms
    }

    /// Calls and tokens that wait for their other side.
    pub fn open(&self) -> usize {
        self.kept.reconciler.open()
    }

    /// The hosts, how far their logs were read, and what is wrong with them.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, u64, Option<&str>)> {
        self.kept.hosts.iter().map(|(id, host)| {
            let silent = host.silent.then_some(SILENT);
            (id, host.seq, host.disputed.as_deref().or(silent))
        })
    }

    /// What is wrong with the token service's journal.
    pub fn journal_trouble(&self) -> Option<&str> {
        self.kept.journal_trouble.as_deref()
    }

    /// An entry of the log that was there before this run, in order.
    pub fn recall(&mut self, entry: &Entry) {
        if let Some(seen) = observation(self.kept.size, entry) {
            self.monitor.recall(&seen);
        }
        drop(self.apply(entry));
    }

    /// An entry that only the monitor needs again.
    pub fn remind(&mut self, index: u64, entry: &Entry) {
        if let Some(seen) = observation(index, entry) {
            self.monitor.recall(&seen);
        }
    }

    /// This run begins: silence and grace count from now.
    pub fn begin(&mut self, now: u64) {
        self.now = now;
        self.journal_heard = now;
        self.kept.reconciler.resume(now);
        self.kept.hosts.values_mut().for_each(|host| host.heard = now);
    }

    /// Takes something that happened at `now`, in milliseconds of Unix time; gives the entries that it makes, in
    /// order. They must go into the log, or this state must not be used any more.
    pub fn take(&mut self, now: u64, input: Input) -> Vec<Entry> {
        self.now = self.now.max(now);
        let mut queue: VecDeque<Record> = match input {
            Input::Page { host, page, began } => self.page(&host, *page, began),
            Input::Journal { page, began } => self.journal_page(*page, began),
            Input::Attempts(attempts) => self.attempts(attempts),
            Input::Observed(observed) => [Record::Audit(observed)].into(),
            Input::Refused(refused) => {
                self.throttle.pass(self.now, *refused).map(audit).into_iter().collect()
            }
            Input::Hosts(hosts) => self.expect(hosts),
            Input::Tick => self.tick(),
            Input::Stop => self.throttle.rest().into_iter().map(audit).collect(),
        };
        let mut entries = Vec::new();
        while let Some(record) = queue.pop_front() {
            let entry = Entry { time: self.now, record };
            let seen = observation(self.kept.size, &entry);
            let mut follows = self.apply(&entry);
            follows.extend(seen.into_iter().flat_map(|seen| alarms(self.monitor.observe(&seen))));
            entries.push(entry);
            for record in follows.into_iter().rev() {
                queue.push_front(record);
            }
        }
        entries
    }

    /// Changes the state by an entry; gives what follows from it.
    fn apply(&mut self, entry: &Entry) -> Vec<Record> {
        let (index, now) = (self.kept.size, entry.time);
        self.kept.size += 1;
        let reconciler = &mut self.kept.reconciler;
        let gaps = match &entry.record {
            Record::Host(id, record) => {
                if let Some(host) = self.kept.hosts.get_mut(id) {
                    host.seq = record.record.seq;
                    host.hash = LogRecord::hash_of(record.record.line().as_bytes());
                }
                reconciler.record(now, id, &record.record)
            }
            Record::Issued(record) => {
                self.kept.journal = record.seq;
                reconciler.issued(now, record).into_iter().collect()
            }
            Record::Attempt(attempt) => reconciler.attempt(now, attempt).into_iter().collect(),
            Record::Audit(observed) => {
                self.observed(now, observed);
                Vec::new()
            }
            Record::Alarm(_) => {
                self.kept.alarms.push_back(index);
                if self.kept.alarms.len() > MAX_ALARMS {
                    self.kept.alarms.pop_front();
                }
                Vec::new()
            }
        };
        gaps.into_iter().map(|gap| audit(gap.into())).collect()
    }

    /// The state that is told of in events of the audit service itself.
    fn observed(&mut self, now: u64, observed: &Observed) {
        let code = observed.code.as_ref().map_or("", |code| code.as_str());
        if observed.kind != ObservedKind::Event {
            return;
        }
        if GapKind::of(code).is_some() {
            self.kept.reconciler.settle(now, observed.request.as_ref(), observed.token.as_ref());
        }
        let Some(id) = &observed.host else {
            match code {
                SILENT | TRUNCATED | CHAIN => self.kept.journal_trouble = Some(code.to_owned()),
                BACK => self.kept.journal_trouble = None,
                _ => {}
            }
            return;
        };
        if tells_key(code)
            && let Some(key) = observed.detail.as_ref().and_then(|key| key.to_string().try_into().ok())
        {
            let heard = self.now;
            let host = self.kept.hosts.entry(id.clone()).or_insert_with(|| Host {
                key,
                seq: 0,
                hash: host_api::GENESIS,
                disputed: None,
                silent: false,
                reader: None,
                heard,
            });
            if host.key != key {
                (host.key, host.reader) = (key, None);
            }
        }
        if let Some(host) = self.kept.hosts.get_mut(id) {
            match code {
                SILENT => host.silent = true,
                BACK => (host.silent, host.disputed) = (false, None),
                TRUNCATED | FORKED | CHAIN | SIGNATURE => host.disputed = Some(code.to_owned()),
                _ => {}
            }
        }
    }

    fn page(&mut self, id: &HostId, page: LogPage, began: u64) -> VecDeque<Record> {
        let mut records = VecDeque::new();
        let Some(host) = self.kept.hosts.get_mut(id) else { return records };
        host.heard = self.now;
        let (key, seq, hash) = (host.key, host.seq, host.hash);
        let mut reader =
            host.reader.take().filter(|reader| reader.seq() == seq).unwrap_or_else(|| match seq {
                0 => LogReader::new(key),
                _ => LogReader::resume(key, seq, hash),
            });
        let long = |record: &&LogRecord| record.line().len() >= MAX_RECORD;
        let taken = match page.records.iter().find(long) {
            Some(record) => Err(Refuted::Chain(record.seq)),
            None => reader.take(&page),
        };
        let (truth, proven) = (reader.seq(), reader.is_proven());
        host.reader = Some(reader);
        if let Err(refuted) = taken {
            let code = code_of(refuted);
            if host.disputed.as_deref() != Some(code) {
                let mut observed = Observed::of_host(id, code, &refuted.to_string());
                observed.evidence = Some(page.head);
                records.push_back(Record::Audit(Box::new(observed)));
            }
            return records;
        }
        if host.silent || host.disputed.is_some() {
            let back = Observed::of_host(id, BACK, "its log is read again");
            records.push_back(Record::Audit(Box::new(back)));
        }
        if proven {
            self.kept.reconciler.read(Some(id), began);
        }
        let (mut base, head) = ((seq == 0 && page.base.seq > 0).then_some(page.base), page.head);
        for record in page.records {
            let base = base.take();
            let head = (record.seq == truth && head.seq == truth).then(|| head.clone());
            records.push_back(Record::Host(id.clone(), Box::new(HostRecord { record, head, base })));
        }
        records
    }

    fn journal_page(&mut self, page: tokens::Page, began: u64) -> VecDeque<Record> {
        self.journal_heard = self.now;
        let next = self.kept.journal.saturating_add(1);
        let new: Vec<_> = page.entries.into_iter().filter(|entry| entry.seq >= next).collect();
        let seqs: Vec<u64> = iter::once(self.kept.journal).chain(new.iter().map(|entry| entry.seq)).collect();
        let ordered = seqs.is_sorted_by(|before, after| before < after);
        let missing = seqs.array_windows().find(|[before, after]| after.saturating_sub(*before) > 1);
        let end = seqs.last().copied().unwrap_or_default();
        let cut = missing.map(|[before, _]| before + 1).or((page.last < end).then(|| end.saturating_add(1)));
        let long =
            |entry: &tokens::Entry| serde_json::to_vec(entry).is_ok_and(|line| line.len() > MAX_DECISION);
        let trouble = if !ordered || new.iter().any(long) {
            Some((CHAIN, "entries of the journal are too long or not in order".to_owned()))
        } else {
            cut.map(|entry| (TRUNCATED, format!("entry {entry} of the journal was to come")))
        };
        let mut records = VecDeque::new();
        match &trouble {
            Some((code, _)) if self.kept.journal_trouble.as_deref() == Some(code) => {}
            Some((code, detail)) => records.push_back(Record::Audit(Box::new(Observed::event(code, detail)))),
            None if self.kept.journal_trouble.is_some() => {
                let back = Observed::event(BACK, "the token service's journal is read again");
                records.push_back(Record::Audit(Box::new(back)));
            }
            None => {}
        }
        if matches!(trouble, Some((CHAIN, _))) {
            return records;
        }
        records.extend(new.into_iter().map(|entry| Record::Issued(Box::new(entry))));
        if page.last == end {
            self.kept.reconciler.read(None, began);
        }
        records
    }

    fn attempts(&self, attempts: Vec<Attempt>) -> VecDeque<Record> {
        let reconciler = &self.kept.reconciler;
        let mut new = Vec::new();
        for attempt in attempts {
            if !reconciler.knows(&attempt) && !new.contains(&attempt) {
                new.push(attempt);
            }
        }
        new.into_iter().map(|attempt| Record::Attempt(Box::new(attempt))).collect()
    }

    fn expect(&mut self, hosts: BTreeMap<HostId, PublicKey>) -> VecDeque<Record> {
        let mut records = VecDeque::new();
        for (id, key) in &hosts {
            let known = self.kept.hosts.get_mut(id);
            if known.as_ref().is_none_or(|host| host.key != *key) {
                let code = if known.is_some() { HOST_KEY } else { HOST };
                let observed = Observed::of_host(id, code, &String::from(*key));
                records.push_back(Record::Audit(Box::new(observed)));
            }
            if !self.expected.contains(id) {
                known.into_iter().for_each(|host| host.heard = self.now);
            }
        }
        self.expected = hosts.into_keys().collect();
        records
    }

    fn tick(&mut self) -> VecDeque<Record> {
        let silent = |heard: u64| self.now.saturating_sub(heard) > self.silence;
        let mut observed = Vec::new();
        for (id, host) in &self.kept.hosts {
            if self.expected.contains(id) && !host.silent && silent(host.heard) {
                observed.push(Observed::of_host(id, SILENT, "its log cannot be read"));
            }
        }
        if self.kept.journal_trouble.is_none() && silent(self.journal_heard) {
            observed.push(Observed::event(SILENT, "the token service's journal cannot be read"));
        }
        let Kept { hosts, reconciler, .. } = &mut self.kept;
        let gaps = reconciler.due(self.now, |host| hosts.contains_key(host));
        observed.extend(gaps.into_iter().map(Observed::from));
        observed.extend(self.throttle.due(self.now));
        let observed = observed.into_iter().map(audit);
        let alarms = alarms(self.monitor.tick(self.now));
        observed.chain(alarms).collect()
    }
}

/// A host became known: its key is in the detail.
pub const HOST: &str = "audit.host";
/// A host that was known by another key has this one now.
pub const HOST_KEY: &str = "audit.host-key";
/// A source cannot be read.
pub const SILENT: &str = "audit.silent";
/// A source can be read again.
pub const BACK: &str = "audit.back";
/// A log ends before a record that it had.
pub const TRUNCATED: &str = "audit.truncated";
/// A host shows another record than before under the same number.
pub const FORKED: &str = "audit.forked";
/// A record does not follow the one before it.
pub const CHAIN: &str = "audit.chain";
/// The signature over a host's log is wrong.
pub const SIGNATURE: &str = "audit.signature";

/// Whether events with this code tell of a host's key.
pub(crate) fn tells_key(code: &str) -> bool {
    [HOST, HOST_KEY].contains(&code)
}

fn code_of(refuted: Refuted) -> &'static str {
    match refuted {
        Refuted::Signature => SIGNATURE,
        Refuted::Chain(_) => CHAIN,
        Refuted::Forked(_) => FORKED,
        Refuted::Cut(_) | Refuted::Gone(_) => TRUNCATED,
    }
}

fn audit(observed: Observed) -> Record {
    Record::Audit(Box::new(observed))
}

fn alarms(alarms: Vec<Alarm>) -> Vec<Record> {
    alarms.into_iter().map(|alarm| Record::Alarm(Box::new(alarm))).collect()
}

#[cfg(test)]
mod tests;
