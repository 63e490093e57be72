//! The log on disk. Everything below a checkpoint is durable before the checkpoint is signed, and the checkpoint
//! is durable before anybody is shown it: a process that is killed at any point goes on from its last checkpoint,
//! and what it had written beyond is written again.

use crate::{
    note::{Checkpoint, Signer, VerifierKey},
    tile::{HEIGHT, Level, MAX_ENTRY, Tile, WIDTH, bundle, fold},
    tree::{Hash, MAX_SIZE, Nodes, leaf_hash, root},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The file of the latest checkpoint, below the log's folder.
pub const CHECKPOINT: &str = "checkpoint";

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("the log is in use: another audit service runs with this state")]
    InUse,
    /// Tiles without a checkpoint.
    #[error("the log's checkpoint is gone: restore it, or the whole log, from a copy")]
    NoCheckpoint,
    /// The checkpoint is not signed by the log's key, or the files are not what it says.
    #[error("the log is damaged: {0} is not what the log's checkpoint says; restore it from a copy")]
    Damaged(String),
    /// The log is an older copy of itself.
    #[error(
        "the log was rolled back: it had {0} entries; restore the whole of it, or its readers will find out"
    )]
    RolledBack(u64),
    /// An entry that does not fit.
    #[error("an entry has at most {MAX_ENTRY} bytes, a log at most 2^48 entries")]
    TooLong,
    /// An earlier write failed: only opening it again tells what is on disk.
    #[error("the log could not be written")]
    Poisoned,
}

impl LogError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// The tiles that are not full yet, and the checkpoint over all: what a reader needs beside the full tiles, which
/// never change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    folder: Arc<Path>,
    /// The signed checkpoint.
    pub note: String,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// By level, the hashes of the tile that is not full yet.
    edge: Vec<Vec<Hash>>,
    /// The bundle that is not full yet.
    bundle: Vec<u8>,
}

impl Snapshot {
    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.checkpoint.size
    }

    /// The bytes of a tile, which may be narrower than what there is of it; none if the log has not come so far.
    pub fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, LogError> {
        let Some(whole) = Tile::of(tile.level, tile.index, self.size()) else { return Ok(None) };
        if tile.width > whole.width {
            return Ok(None);
        }
        let mut bytes = match (whole.is_full(), tile.level) {
            (true, _) => self.read(&whole)?,
            (false, Level::Entries) => self.bundle.clone(),
            (false, Level::Hashes(level)) => self.edge_at(level).concat(),
        };
        if tile.width < whole.width {
            let length = match tile.level {
                Level::Hashes(_) => Some(32).zip(usize::try_from(tile.width).ok()).map(|(a, b)| a * b),
                Level::Entries => prefix(&bytes, tile.width),
            };
            bytes.truncate(length.ok_or_else(|| LogError::Damaged(tile.to_string()))?);
        }
        Ok(Some(bytes))
    }

    /// The entries of a bundle, as they are in the log now; none beyond its end.
    pub fn entries(&self, bundle: u64) -> Result<Vec<Vec<u8>>, LogError> {
        let Some(tile) = Tile::of(Level::Entries, bundle, self.size()) else { return Ok(Vec::new()) };
        let bytes = self.tile(&tile)?.unwrap_or_default();
        let entries = tile.entries(&bytes).map_err(|_| LogError::Damaged(tile.to_string()))?;
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// One entry; none beyond the end.
    pub fn entry(&self, index: u64) -> Result<Option<Vec<u8>>, LogError> {
        let at = usize::try_from(index % WIDTH).map_err(|_| LogError::TooLong)?;
        Ok(self.entries(index / WIDTH)?.into_iter().nth(at))
    }

    fn edge_at(&self, level: u32) -> &[Hash] {
        usize::try_from(level).ok().and_then(|level| self.edge.get(level)).map_or(&[], Vec::as_slice)
    }

    fn read(&self, tile: &Tile) -> Result<Vec<u8>, LogError> {
        let path = self.folder.join(tile.to_string());
        fs::read(&path).map_err(|source| LogError::file(&path, source))
    }
}

impl Nodes for &Snapshot {
    type Error = LogError;

    fn node(&mut self, level: u32, index: u64) -> Result<Hash, LogError> {
        let (tile_level, above) = (level / HEIGHT, level % HEIGHT);
        let first = index << above;
        let damaged = || LogError::Damaged(format!("node {level}/{index}"));
        let tile = Tile::of(Level::Hashes(tile_level), first / WIDTH, self.size()).ok_or_else(damaged)?;
        let hashes = match tile.is_full() {
            true => tile.hashes(&self.read(&tile)?).map_err(|_| damaged())?,
            false => self.edge_at(tile_level).to_vec(),
        };
        let from = usize::try_from(first % WIDTH).map_err(|_| damaged())?;
        hashes.get(from..from + (1 << above)).map(fold).ok_or_else(damaged)
    }
}

/// How many bytes the first `width` entries of a bundle take.
fn prefix(bundle: &[u8], width: u64) -> Option<usize> {
    let mut at = 0;
    for _ in 0..width {
        let length = bundle.get(at..)?.first_chunk()?;
        at += 2 + usize::from(u16::from_be_bytes(*length));
    }
    (at <= bundle.len()).then_some(at)
}

/// The log, open for writing.
pub struct Log {
    now: Arc<Snapshot>,
    signer: Signer,
    poisoned: bool,
    _lock: File,
}

/// What an append writes.
#[derive(Default)]
struct Writes(Vec<(Tile, Vec<u8>)>);

impl Log {
    /// Opens the log in `folder`, or makes an empty one there. The log's name is that of the signer.
    pub fn open(folder: &Path, signer: Signer) -> Result<Self, LogError> {
        let failed = |source| LogError::file(folder, source);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let lock = File::open(folder).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| LogError::InUse)?;
        let path = folder.join(CHECKPOINT);
        let now = if path.exists() {
            let note = fs::read_to_string(&path).map_err(|source| LogError::file(&path, source))?;
            load(folder, note, signer.public())?
        } else if folder.join("tile").exists() {
            return Err(LogError::NoCheckpoint);
        } else {
            let origin = signer.public().name().to_owned();
            let checkpoint = Checkpoint { origin, size: 0, root: crate::tree::empty_root() };
            let note = signer.note(&checkpoint.text());
            service::write_atomic(&path, note.as_bytes()).map_err(|source| LogError::file(&path, source))?;
            Snapshot { folder: folder.into(), note, checkpoint, edge: Vec::new(), bundle: Vec::new() }
        };
        Ok(Self { now: Arc::new(now), signer, poisoned: false, _lock: lock })
    }

    /// The log as it was published last.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.now
    }

    /// Appends entries, all or none, durably, and signs a checkpoint over them. After a failure the log takes
    /// nothing more until it is opened again.
    pub fn append(&mut self, entries: &[Vec<u8>]) -> Result<&Arc<Snapshot>, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let fits = entries.iter().all(|entry| entry.len() <= MAX_ENTRY);
        if !fits || self.now.size() + entries.len() as u64 >= MAX_SIZE {
            return Err(LogError::TooLong);
        }
        if entries.is_empty() {
            return Ok(&self.now);
        }
        self.poisoned = true;
        let (next, writes) = self.grow(entries)?;
        writes.write(&next.folder)?;
        let path = next.folder.join(CHECKPOINT);
        service::write_atomic(&path, next.note.as_bytes()).map_err(|e| LogError::file(&path, e))?;
        let old = std::mem::replace(&mut self.now, Arc::new(next));
        self.poisoned = false;
        self.forget(&old);
        Ok(&self.now)
    }

    /// The log with these entries, and what is to be written for it.
    fn grow(&self, entries: &[Vec<u8>]) -> Result<(Snapshot, Writes), LogError> {
        let mut next = Snapshot::clone(&self.now);
        let mut writes = Writes::default();
        for entry in entries {
            bundle(&mut next.bundle, entry).ok_or(LogError::TooLong)?;
            let index = next.checkpoint.size / WIDTH;
            next.checkpoint.size += 1;
            if next.checkpoint.size.is_multiple_of(WIDTH) {
                let tile = Tile { level: Level::Entries, index, width: WIDTH };
                writes.0.push((tile, std::mem::take(&mut next.bundle)));
            }
            push(&mut next.edge, leaf_hash(entry), next.checkpoint.size, &mut writes);
        }
        let size = next.checkpoint.size;
        writes.0.extend(Tile::of(Level::Entries, size / WIDTH, size).map(|tile| (tile, next.bundle.clone())));
        for (level, hashes) in (0..).zip(&next.edge) {
            let edge = |size: u64| Tile::of(Level::Hashes(level), size >> (HEIGHT * (level + 1)), size);
            let new = edge(size).filter(|tile| edge(self.now.size()) != Some(*tile));
            writes.0.extend(new.map(|tile| (tile, hashes.concat())));
        }
        next.checkpoint.root = edge_root(&next.edge, size);
        next.note = self.signer.note(&next.checkpoint.text());
        Ok((next, writes))
    }

    /// Removes tiles that a wider one has taken the place of. It matters to nobody whether this succeeds.
    fn forget(&self, old: &Snapshot) {
        let levels = (0..).zip(&old.edge).map(|(level, _)| Level::Hashes(level));
        for level in levels.chain([Level::Entries]) {
            let height = if let Level::Hashes(level) = level { HEIGHT * (level + 1) } else { HEIGHT };
            let index = old.size() >> height;
            let (was, is) = (Tile::of(level, index, old.size()), Tile::of(level, index, self.now.size()));
            if let (Some(was), Some(is)) = (was, is)
                && was != is
            {
                let path = self.now.folder.join(was.to_string());
                let _ = fs::remove_file(&path);
                if is.is_full() {
                    let _ = path.parent().map(fs::remove_dir);
                }
            }
        }
    }
}

/// Adds a leaf's hash to the tiles that are not full yet; `size` is the tree's size with it.
fn push(edge: &mut Vec<Vec<Hash>>, mut hash: Hash, size: u64, writes: &mut Writes) {
    for level in 0.. {
        let at = usize::try_from(level).unwrap_or(usize::MAX);
        if at == edge.len() {
            edge.push(Vec::new());
        }
        let Some(hashes) = edge.get_mut(at) else { return };
        hashes.push(hash);
        if (hashes.len() as u64) < WIDTH {
            return;
        }
        let full = std::mem::take(hashes);
        hash = fold(&full);
        let index = (size - 1) >> (HEIGHT * (level + 1));
        writes.0.push((Tile { level: Level::Hashes(level), index, width: WIDTH }, full.concat()));
    }
}

/// The root over tiles that are not full.
fn edge_root(edge: &[Vec<Hash>], size: u64) -> Hash {
    let mut right: Option<Hash> = None;
    for hashes in edge {
        let mut rest = hashes.as_slice();
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (left, more) = rest.split_at(1 << rest.len().ilog2());
            parts.push(fold(left));
            rest = more;
        }
        for left in parts.into_iter().rev() {
            right = Some(right.map_or(left, |right| crate::tree::node_hash(&left, &right)));
        }
    }
    debug_assert!(size > 0 || right.is_none());
    right.unwrap_or_else(crate::tree::empty_root)
}

impl Writes {
    /// Writes the tiles and makes them durable.
    fn write(&self, folder: &Path) -> Result<(), LogError> {
        let mut folders = BTreeSet::new();
        for (tile, bytes) in &self.0 {
            let path = folder.join(tile.to_string());
            let failed = |source| LogError::file(&path, source);
            let parent = path.parent().unwrap_or(folder);
            if !parent.exists() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
                folders.extend(parent.ancestors().take_while(|p| p.starts_with(folder)).map(Path::to_owned));
            }
            folders.insert(parent.to_owned());
            let mut file = File::create(&path).map_err(failed)?;
            file.write_all(bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        folders.iter().try_for_each(|folder| {
            File::open(folder).and_then(|f| f.sync_all()).map_err(|e| LogError::file(folder, e))
        })
    }
}

/// Reads the log that `note` is the checkpoint of, and checks the tiles at its edge against it.
fn load(folder: &Path, note: String, key: &VerifierKey) -> Result<Snapshot, LogError> {
    let damaged = |what: &str| LogError::Damaged(what.to_owned());
    let checkpoint = Checkpoint::open(&note, key).map_err(|_| damaged(CHECKPOINT))?;
    let size = checkpoint.size;
    let read = |tile: Option<Tile>| match tile.filter(|tile| !tile.is_full()) {
        None => Ok((None, Vec::new())),
        Some(tile) => {
            let path = folder.join(tile.to_string());
            let bytes = fs::read(&path).map_err(|source| LogError::file(&path, source))?;
            Ok((Some(tile), bytes))
        }
    };
    let mut edge = Vec::new();
    for level in 0..=crate::tile::MAX_LEVEL {
        let (tile, bytes) = read(Tile::of(Level::Hashes(level), size >> (HEIGHT * (level + 1)), size))?;
        let hashes = tile.map(|tile| tile.hashes(&bytes)).transpose();
        edge.push(hashes.map_err(|_| damaged("a tile of hashes"))?.unwrap_or_default());
    }
    let (tile, bundle) = read(Tile::of(Level::Entries, size / WIDTH, size))?;
    let entries = tile.map(|tile| tile.entries(&bundle)).transpose();
    let leaves: Option<Vec<Hash>> =
        entries.map_err(|_| damaged("a bundle"))?.map(|all| all.into_iter().map(leaf_hash).collect());
    if leaves.is_some_and(|leaves| edge.first() != Some(&leaves)) {
        return Err(damaged("the last bundle"));
    }
    let snapshot = Snapshot { folder: folder.into(), note, checkpoint, edge, bundle };
    if root(&mut &snapshot, size)? != snapshot.checkpoint.root {
        return Err(damaged("a tile of hashes"));
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests;
