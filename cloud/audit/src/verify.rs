//! Checks a log from its files alone, wherever they come from, against the log's public key: signature, tree, proofs,
//! the hosts' chains and signatures. It trusts no file: a tile is believed only as far as it leads to the signed root.

use crate::{
    book,
    entry::{Entry, Observed, Record},
    note::{Checkpoint, Note, Purpose, VerifierKey},
    reconcile::GapKind,
    tile::{HEIGHT, Level, MAX_LEVEL, Tile, WIDTH, fold},
    tree::{self, Hash, Nodes, check_inclusion, leaf_hash},
};
use host_api::{GENESIS, LogHead, LogRecord, Sha256};
use ids::HostId;
use serde::Serialize;
use std::collections::BTreeMap;
use token::PublicKey;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be had.
    #[error("{0}")]
    File(String),
    /// The checkpoint is not this log's.
    #[error("the checkpoint is not signed by the log's key")]
    Signature,
    /// A tile or bundle is not what the checkpoint covers.
    #[error("{0} is not what the signed checkpoint covers: it was changed")]
    Forged(String),
    /// The log does not continue an earlier one.
    #[error(
        "the log does not continue the one of {0} entries that was verified before: it was rolled back or forked"
    )]
    RolledBack(u64),
    /// An entry is none, or does not follow those before it.
    #[error("entry {0}: {1}")]
    Entry(u64, &'static str),
}

impl VerifyError {
    /// Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "verify.file",
            Self::Signature => "verify.signature",
            Self::Forged(_) => "verify.forged",
            Self::RolledBack(_) => "verify.rolled-back",
            Self::Entry(..) => "verify.entry",
        }
    }
}

/// Reads a file of the log by its name: `checkpoint`, `tile/0/000`.
pub type Read<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

/// A log that is read by tiles; nothing is believed that does not lead to the signed root.
pub struct Reader<'a> {
    /// The checkpoint that all is checked against.
    pub checkpoint: Checkpoint,
    note: String,
    read: Read<'a>,
    /// The tile that was read last.
    last: Option<(Tile, Vec<Hash>)>,
}

impl<'a> Reader<'a> {
    /// Opens a log by its checkpoint, which `key` must have signed.
    pub fn open(key: &VerifierKey, read: Read<'a>) -> Result<Self, VerifyError> {
        let bytes = read("checkpoint").map_err(VerifyError::File)?;
        let note = String::from_utf8(bytes).map_err(|_| VerifyError::Signature)?;
        let checkpoint = Checkpoint::open(&note, key).map_err(|_| VerifyError::Signature)?;
        Ok(Self { checkpoint, note, read, last: None })
    }

    /// The signed note.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Which of these witnesses signed the checkpoint.
    pub fn witnessed<'k>(&self, keys: &'k [VerifierKey]) -> Vec<&'k str> {
        let note = Note::parse(&self.note).ok();
        let signed = |key: &&VerifierKey| {
            key.purpose() == Purpose::Witness && note.as_ref().is_some_and(|note| key.signed(note).is_some())
        };
        keys.iter().filter(signed).map(VerifierKey::name).collect()
    }

    /// One entry, proven to be in the log.
    pub fn entry(&mut self, index: u64) -> Result<Vec<u8>, VerifyError> {
        let size = self.checkpoint.size;
        let entries = self.bundle(index / WIDTH)?;
        let at = usize::try_from(index % WIDTH).ok();
        let forged = || VerifyError::Forged(format!("entry {index}"));
        let entry = at.and_then(|at| entries.into_iter().nth(at)).ok_or_else(forged)?;
        // The leaf's own hash is in no proof of it.
        if self.node(0, index)? != leaf_hash(&entry) {
            return Err(forged());
        }
        let proof = tree::inclusion(self, index, size)?;
        check_inclusion(&entry, index, size, &self.checkpoint.root, &proof).map_err(|_| forged())?;
        Ok(entry)
    }

    /// Checks that this log continues an earlier one.
    pub fn continues(&mut self, old: &Checkpoint) -> Result<(), VerifyError> {
        let back = VerifyError::RolledBack(old.size);
        if old.origin != self.checkpoint.origin || old.size > self.checkpoint.size {
            return Err(back);
        }
        let (size, root) = (self.checkpoint.size, self.checkpoint.root);
        let proof = tree::consistency(self, old.size, size)?;
        tree::check_consistency((old.size, &old.root), (size, &root), &proof).map_err(|_| back)
    }

    fn bytes(&mut self, tile: &Tile) -> Result<Vec<u8>, VerifyError> {
        (self.read)(&tile.to_string()).map_err(VerifyError::File)
    }

    fn bundle(&mut self, index: u64) -> Result<Vec<Vec<u8>>, VerifyError> {
        let tile = self.tile(Level::Entries, index)?;
        let bytes = self.bytes(&tile)?;
        let entries = tile.entries(&bytes).map_err(|_| VerifyError::Forged(tile.to_string()))?;
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn tile(&self, level: Level, index: u64) -> Result<Tile, VerifyError> {
        let none = || VerifyError::Forged(format!("entry {index}, which is beyond the log's end,"));
        Tile::of(level, index, self.checkpoint.size).ok_or_else(none)
    }

    fn hashes(&mut self, tile: Tile) -> Result<&[Hash], VerifyError> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != tile) {
            let bytes = self.bytes(&tile)?;
            let hashes = tile.hashes(&bytes).map_err(|_| VerifyError::Forged(tile.to_string()))?;
            self.last = Some((tile, hashes));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, hashes)| hashes))
    }

    /// Compares a tile of hashes with what was computed from the entries.
    fn compare(&mut self, level: u32, index: u64, computed: &[Hash]) -> Result<(), VerifyError> {
        let tile = self.tile(Level::Hashes(level), index)?;
        if self.hashes(tile)? == computed { Ok(()) } else { Err(VerifyError::Forged(tile.to_string())) }
    }
}

impl Nodes for Reader<'_> {
    type Error = VerifyError;

    fn node(&mut self, level: u32, index: u64) -> Result<Hash, VerifyError> {
        let (tile_level, above) = (level / HEIGHT, level % HEIGHT);
        let first = index << above;
        let tile = self.tile(Level::Hashes(tile_level), first / WIDTH)?;
        let forged = || VerifyError::Forged(tile.to_string());
        let from = usize::try_from(first % WIDTH).map_err(|_| forged())?;
        self.hashes(tile)?.get(from..from + (1 << above)).map(fold).ok_or_else(forged)
    }
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Entries.
    pub size: u64,
    /// The root, in hexadecimal.
    pub root: String,
    /// The hosts' records: how many, and how many signatures of the host cover them.
    pub hosts: BTreeMap<HostId, HostReport>,
    /// Decisions of the token service.
    pub decisions: u64,
    /// Attempts that callers told of.
    pub attempts: u64,
    /// Reads of the log.
    pub reads: u64,
    /// Alarms.
    pub alarms: u64,
    /// What the audit service found, by code: gaps, broken logs, silent sources.
    pub found: BTreeMap<String, u64>,
    /// Proofs that were checked on the way.
    pub proofs: u64,
}

/// What was verified of a host's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Its records.
    pub records: u64,
    /// The host's signatures over them that were checked.
    pub signatures: u64,
    /// Up to which record they reach.
    pub signed: u64,
    #[serde(skip)]
    key: Option<PublicKey>,
    #[serde(skip)]
    seq: u64,
    #[serde(skip)]
    hash: [u8; 32],
}

/// Verifies the whole log. `progress` hears how many entries are done.
pub fn whole(reader: &mut Reader<'_>, progress: &mut dyn FnMut(u64)) -> Result<Report, VerifyError> {
    let size = reader.checkpoint.size;
    let mut report = Report { size, ..Report::default() };
    let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); MAX_LEVEL as usize + 1];
    for bundle in 0..size.div_ceil(WIDTH) {
        let entries = reader.bundle(bundle)?;
        for (index, bytes) in (bundle * WIDTH..).zip(&entries) {
            let entry = Entry::parse(bytes).map_err(|_| VerifyError::Entry(index, "not an entry"))?;
            report.take(index, entry)?;
        }
        if let Some(leaves) = levels.first_mut() {
            leaves.extend(entries.iter().map(|entry| leaf_hash(entry)));
        }
        close(reader, &mut levels, bundle + 1)?;
        progress((bundle + 1) * WIDTH);
    }
    for (level, hashes) in (0..).zip(&levels).filter(|(_, hashes)| !hashes.is_empty()) {
        reader.compare(level, size >> (HEIGHT * (level + 1)), hashes)?;
    }
    // The tiles are those of the entries: now their root must be the signed one.
    let root = tree::root(reader, size)?;
    if root != reader.checkpoint.root {
        return Err(VerifyError::Forged("the root".to_owned()));
    }
    report.root = Sha256::from_digest(&root).to_string();
    // Where proofs have different shapes: ends and middles.
    for index in [0, size / 3, size / 2, size.saturating_sub(1)].into_iter().filter(|index| *index < size) {
        reader.entry(index)?;
        report.proofs += 1;
    }
    Ok(report)
}

/// Compares the tiles that are full after so many bundles, and goes up.
fn close(reader: &mut Reader<'_>, levels: &mut [Vec<Hash>], bundles: u64) -> Result<(), VerifyError> {
    let mut full = bundles;
    for level in 0..levels.len() {
        let Some(hashes) = levels.get_mut(level).filter(|hashes| hashes.len() as u64 == WIDTH) else { break };
        let hashes = std::mem::take(hashes);
        let number = u32::try_from(level).unwrap_or(MAX_LEVEL);
        reader.compare(number, full - 1, &hashes)?;
        if let Some(above) = levels.get_mut(level + 1) {
            above.push(fold(&hashes));
        }
        full /= WIDTH;
    }
    Ok(())
}

impl Report {
    fn take(&mut self, index: u64, entry: Entry) -> Result<(), VerifyError> {
        match entry.record {
            Record::Host(id, host) => {
                let broken = |what| VerifyError::Entry(index, what);
                let known = self.hosts.get_mut(&id).ok_or_else(|| broken("a host that was not told of"))?;
                known.take(&host.record, host.base.as_ref(), host.head.as_ref()).map_err(broken)?;
            }
            Record::Issued(_) => self.decisions += 1,
            Record::Attempt(_) => self.attempts += 1,
            Record::Alarm(_) => self.alarms += 1,
            Record::Audit(observed) => self.observed(&observed),
        }
        Ok(())
    }

    fn observed(&mut self, observed: &Observed) {
        let code = observed.code.as_ref().map_or("", |code| code.as_str());
        let findings = [book::SILENT, book::TRUNCATED, book::FORKED, book::CHAIN, book::SIGNATURE];
        if book::tells_key(code)
            && let Some(host) = &observed.host
        {
            let host = self.hosts.entry(host.clone()).or_default();
            host.key = observed.detail.as_ref().and_then(|key| key.to_string().try_into().ok());
        } else if GapKind::of(code).is_some() || findings.contains(&code) {
            *self.found.entry(code.to_owned()).or_default() += 1;
        } else if observed.kind == crate::entry::ObservedKind::Read {
            self.reads += 1;
        }
    }
}

impl HostReport {
    fn take(
        &mut self,
        record: &LogRecord,
        base: Option<&LogHead>,
        head: Option<&LogHead>,
    ) -> Result<(), &'static str> {
        let key = self.key.ok_or("a host without a key")?;
        let signed = |head: &LogHead| head.verify(&key).map_err(|_| "not signed by its host");
        if let Some(base) = base.filter(|_| self.seq == 0) {
            signed(base)?;
            (self.seq, self.hash) = (base.seq, base.hash.to_digest());
        }
        let prev = if self.seq == 0 { &GENESIS } else { &self.hash };
        self.hash = record.follows(self.seq + 1, prev).map_err(|_| "not what follows in its host's chain")?;
        self.seq += 1;
        self.records += 1;
        if let Some(head) = head {
            signed(head)?;
            if head.seq != self.seq || head.hash != Sha256::from_digest(&self.hash) {
                return Err("not what its host signed");
            }
            self.signatures += 1;
            self.signed = head.seq;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
