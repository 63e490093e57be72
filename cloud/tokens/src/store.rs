//! What survives: quotas, the journal, and the signing keys, wrapped. One file, open before the sandbox closes.

use crate::{
    Entry, MAX_PAGE, Page, Standing,
    ledger::{Durable, Write},
};
use decision::quota::Window;
use ids::HostId;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use rights::SetHash;
use std::{collections::BTreeMap, fs::File, os::unix::fs::OpenOptionsExt, path::Path};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const WINDOWS: TableDefinition<'_, &str, (u64, u64, u64, u64)> = TableDefinition::new("windows");
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
/// Wrapped private keys by public key.
const KEYS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("keys");
/// What hosts were last found to be, JSON.
const HOSTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hosts");
/// Signed key sets by number.
const SETS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sets");

const FORMAT: &str = "format";
const VERSION: &[u8] = b"1";
const ACKNOWLEDGED: &str = "acknowledged";
const RING: &str = "ring";
const RIGHTS: &str = "rights";
const REVIEWERS: &str = "reviewers";
/// Bytes of the store that are kept in memory.
const CACHE: usize = 16 << 20;
/// Signed key sets that are kept, so that a host that missed some can follow one after the other.
const KEPT_SETS: u64 = 16;

/// The store cannot be read or written, or holds what no release of ours wrote.
#[derive(Debug, thiserror::Error)]
#[error("the token service's store: {0}")]
pub struct StoreError(pub(crate) String);

macro_rules! from {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        })*
    };
}

from!(
    redb::Error,
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    serde_json::Error,
    std::io::Error
);

/// What a commit changes of the keys.
#[derive(Debug, Default)]
pub(crate) struct KeyChange {
    pub(crate) ring: Vec<u8>,
    pub(crate) add: Option<([u8; 32], Vec<u8>)>,
    pub(crate) drop: Option<[u8; 32]>,
    pub(crate) set: Option<(u64, Vec<u8>)>,
}

/// What a host was found to be.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) host: HostId,
    /// JSON.
    pub(crate) standing: Vec<u8>,
}

/// What one commit does, with others of the same moment.
#[derive(Debug)]
pub(crate) enum Step {
    Write {
        write: Write,
        entry: Box<Entry>,
        keys: Option<KeyChange>,
        /// What a host was found to be.
        standing: Option<Box<Found>>,
    },
    Acknowledge(u64),
    /// From now on this rights configuration is in force, by the review with this number.
    Rights(SetHash, u64),
    /// From now on those may review whose list has this hash.
    Reviewers([u8; 32]),
}

pub(crate) struct Store(Database);

impl Store {
    /// Opens or makes it. Another process that has it open is an error.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A new file's name must be as durable as what is promised in it.
        File::open(folder)?.sync_all()?;
        let store = Self(Builder::new().set_cache_size(CACHE).create_file(file)?);
        let write = store.0.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let version = meta.get(FORMAT)?.map(|value| value.value().to_vec());
            match version.as_deref() {
                None => drop(meta.insert(FORMAT, VERSION)?),
                Some(VERSION) => {}
                Some(_) => return Err(StoreError("it is of another release's format".to_owned())),
            }
            write.open_table(WINDOWS)?;
            write.open_table(JOURNAL)?;
            write.open_table(KEYS)?;
            write.open_table(SETS)?;
            write.open_table(HOSTS)?;
        }
        write.commit()?;
        Ok(store)
    }

    /// What was durable when the service ended.
    pub(crate) fn durable(&self) -> Result<Durable, StoreError> {
        let read = self.0.begin_read()?;
        let acknowledged = acknowledged(&read)?;
        let journal = read.open_table(JOURNAL)?;
        let last = journal.last()?.map_or(acknowledged, |(seq, _)| seq.value());
        if last.checked_sub(acknowledged) != Some(journal.len()?) {
            return Err(StoreError("entries of the journal are missing: put it back from a copy".to_owned()));
        }
        let mut windows = BTreeMap::new();
        for item in read.open_table(WINDOWS)?.iter()? {
            let (quota, window) = item?;
            let (start, length, used, limit) = window.value();
            windows.insert(quota.value().to_owned(), Window { start, length, used, limit });
        }
        Ok(Durable { windows, last, acknowledged })
    }

    /// Does all steps, or none if it fails. Durable on return.
    pub(crate) fn commit(&self, steps: &[&Step]) -> Result<(), StoreError> {
        let write = self.0.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let mut windows = write.open_table(WINDOWS)?;
            let mut journal = write.open_table(JOURNAL)?;
            for step in steps {
                match step {
                    Step::Rights(set, number) => {
                        meta.insert(RIGHTS, format!("{set} {number}").as_bytes())?;
                    }
                    Step::Reviewers(hash) => drop(meta.insert(REVIEWERS, hash.as_slice())?),
                    Step::Acknowledge(up_to) => {
                        meta.insert(ACKNOWLEDGED, up_to.to_be_bytes().as_slice())?;
                        journal.retain_in(..=*up_to, |_, _| false)?;
                    }
                    Step::Write { write: Write { seq, windows: changed, .. }, entry, keys, standing } => {
                        journal.insert(seq, serde_json::to_vec(entry)?.as_slice())?;
                        for (quota, Window { start, length, used, limit }) in changed {
                            windows.insert(quota.as_str(), (*start, *length, *used, *limit))?;
                        }
                        if let Some(Found { host, standing }) = standing.as_deref() {
                            write.open_table(HOSTS)?.insert(host.as_str(), standing.as_slice())?;
                        }
                        if let Some(change) = keys {
                            meta.insert(RING, change.ring.as_slice())?;
                            let mut keys = write.open_table(KEYS)?;
                            change_keys(change, &mut keys, &mut write.open_table(SETS)?)?;
                        }
                    }
                }
            }
        }
        Ok(write.commit()?)
    }

    /// Entries after `after`.
    pub(crate) fn page(&self, after: u64) -> Result<Page, StoreError> {
        let read = self.0.begin_read()?;
        let journal = read.open_table(JOURNAL)?;
        let last = journal.last()?.map(|(seq, _)| seq.value());
        let last = last.map_or_else(|| acknowledged(&read), Ok)?;
        let from = after.saturating_add(1);
        let mut entries = Vec::new();
        for item in journal.range(from..)?.take(MAX_PAGE) {
            entries.push(serde_json::from_slice(item?.1.value())?);
        }
        Ok(Page { entries, last })
    }

    /// The rights configuration that was in force last, if there was one, and the number of its review.
    pub(crate) fn rights(&self) -> Result<Option<(SetHash, u64)>, StoreError> {
        let Some(kept) = self.0.begin_read()?.open_table(META)?.get(RIGHTS)? else { return Ok(None) };
        let kept = str::from_utf8(kept.value()).ok().and_then(|text| text.split_once(' '));
        let kept = kept.and_then(|(set, number)| Some((set.parse().ok()?, number.parse().ok()?)));
        let none = || StoreError("it names no rights configuration: put it back from a copy".to_owned());
        kept.map(Some).ok_or_else(none)
    }

    /// The hash of the list of reviewers that was given last, if there was one.
    pub(crate) fn reviewers(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.begin_read()?.open_table(META)?.get(REVIEWERS)?.map(|value| value.value().to_vec()))
    }

    /// What hosts were last found to be.
    pub(crate) fn hosts(&self) -> Result<BTreeMap<HostId, Standing>, StoreError> {
        let hosts = self.0.begin_read()?.open_table(HOSTS)?;
        let mut found = BTreeMap::new();
        for item in hosts.iter()? {
            let (host, standing) = item?;
            let host = host.value().parse().map_err(|_| StoreError("it names no host".to_owned()))?;
            found.insert(host, serde_json::from_slice(standing.value())?);
        }
        Ok(found)
    }

    /// The ring of keys, if there is one yet.
    pub(crate) fn ring(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.begin_read()?.open_table(META)?.get(RING)?.map(|value| value.value().to_vec()))
    }

    /// A wrapped private key.
    pub(crate) fn key(&self, public: [u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.begin_read()?.open_table(KEYS)?.get(public)?.map(|value| value.value().to_vec()))
    }

    /// The signed key sets that are kept, oldest first.
    pub(crate) fn sets(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let sets = self.0.begin_read()?.open_table(SETS)?;
        let mut kept = Vec::new();
        for item in sets.iter()? {
            kept.push(item?.1.value().to_vec());
        }
        Ok(kept)
    }
}

fn change_keys(
    change: &KeyChange,
    keys: &mut redb::Table<'_, [u8; 32], &'static [u8]>,
    sets: &mut redb::Table<'_, u64, &'static [u8]>,
) -> Result<(), StoreError> {
    if let Some((public, wrapped)) = &change.add {
        keys.insert(public, wrapped.as_slice())?;
    }
    if let Some(public) = &change.drop {
        keys.remove(public)?;
    }
    if let Some((sequence, signed)) = &change.set {
        sets.insert(sequence, signed.as_slice())?;
        if let Some(old) = sequence.checked_sub(KEPT_SETS) {
            sets.remove(old)?;
        }
    }
    Ok(())
}

/// The last entry that is safe elsewhere; 0 for none.
fn acknowledged(read: &redb::ReadTransaction) -> Result<u64, StoreError> {
    read.open_table(META)?.get(ACKNOWLEDGED)?.map_or(Ok(0), |value| number(value.value()))
}

fn number(bytes: &[u8]) -> Result<u64, StoreError> {
    let bytes = bytes.try_into().map_err(|_| StoreError("a number is damaged".to_owned()))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Kind,
        ledger::{Capacity, Charge, Ledger},
    };

    const ROOM: Capacity = Capacity { entries: 99, refusals: 99, strangers: 99 };

    fn step(write: Write) -> Step {
        let entry = Entry { seq: write.seq, ..Entry::new(Kind::Issued) };
        Step::Write { write, entry: Box::new(entry), keys: None, standing: None }
    }

    #[test]
    fn the_store_keeps_what_the_state_machine_says_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let mut ledger = Ledger::restart(ROOM, Durable::default());
        let mut model = Durable::default();
        for round in 0..4 {
            let store = Store::open(&path).unwrap();
            assert_eq!(store.durable().unwrap(), model, "round {round}");
            for quota in ["a", "b", "a"] {
                let charge = Charge { quota: quota.to_owned(), limit: 100, window: 60, cost: 2 };
                let write = ledger.grant(&[charge], 1000 + round).unwrap();
                model.apply(&write);
                ledger.durable(write.seq);
                store.commit(&[&step(write)]).unwrap();
            }
            let up_to = ledger.acknowledge(2 * round);
            store.commit(&[&Step::Acknowledge(up_to)]).unwrap();
            model.acknowledged = up_to;
            let kept: Vec<u64> = store.page(0).unwrap().entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(kept, (up_to + 1..=model.last).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_journal_with_a_gap_is_refused_and_so_is_a_second_opener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store = Store::open(&path).unwrap();
        assert!(Store::open(&path).is_err());
        let mut ledger = Ledger::restart(ROOM, Durable::default());
        let writes: Vec<Step> = (0..3).map(|_| step(ledger.note().unwrap())).collect();
        store.commit(&[&writes[0], &writes[2]]).unwrap();
        assert!(store.durable().unwrap_err().to_string().contains("missing"));
        store.commit(&[&writes[1]]).unwrap();
        assert_eq!(store.durable().unwrap().last, 3);
    }
}
