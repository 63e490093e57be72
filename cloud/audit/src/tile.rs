//! The layout of a log in files (C2SP tlog-tiles): tiles of 256 hashes, bundles of 256 entries, each at a path of its
//! own. Paths and contents come from strangers: they are parsed strictly and have one form.

use crate::tree::{Hash, node_hash};
use std::fmt;

/// Hashes in a full tile, entries in a full bundle.
pub const WIDTH: u64 = 256;
/// Levels of the tree in one tile.
pub const HEIGHT: u32 = 8;
/// The highest level of tiles that a tree of [`crate::tree::MAX_SIZE`] has.
pub const MAX_LEVEL: u32 = 5;
/// Longest entry in bytes: its length is written in two.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Entries.
    Entries,
    /// Hashes, of subtrees of `256^level` leaves.
    Hashes(u32),
}

/// A tile or bundle, full or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// What it holds.
    pub level: Level,
    /// Counts from the left, from 0.
    pub index: u64,
    /// Hashes or entries in it, 1 to [`WIDTH`].
    pub width: u64,
}

/// Not a tile of such a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a tile, or not as wide as its name says")]
pub struct BadTile;

impl Tile {
    /// The tile of `level` that the tree of `size` leaves has at `index`; none if it has not come so far.
    pub fn of(level: Level, index: u64, size: u64) -> Option<Self> {
        let nodes = match level {
            Level::Entries => size,
            Level::Hashes(level) => size.checked_shr(level * HEIGHT)?,
        };
        let width = nodes.saturating_sub(index.checked_mul(WIDTH)?).min(WIDTH);
        (width > 0).then_some(Self { level, index, width })
    }

    /// Whether it will not change any more.
    pub fn is_full(&self) -> bool {
        self.width == WIDTH
    }

    /// Reads a path such as `tile/0/x001/067.p/8`.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let level = match level {
            "entries" => Level::Entries,
            number => Level::Hashes(number.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| *width < WIDTH)?),
            None => (rest, WIDTH),
        };
        let digits: String = index.split('/').map(|group| group.trim_start_matches('x')).collect();
        let tile = Self { level, index: digits.parse().ok()?, width };
        // There is one way to write it.
        (width > 0 && tile.to_string() == path).then_some(tile)
    }

    /// Reads a tile of hashes.
    pub fn hashes(&self, bytes: &[u8]) -> Result<Vec<Hash>, BadTile> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        if rest.is_empty() && hashes.len() as u64 == self.width { Ok(hashes.to_vec()) } else { Err(BadTile) }
    }

    /// Reads a bundle of entries.
    pub fn entries<'a>(&self, mut bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, BadTile> {
        let mut entries = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            let (entry, rest) = rest.split_at_checked(length).ok_or(BadTile)?;
            entries.push(entry);
            bytes = rest;
        }
        if bytes.is_empty() && entries.len() as u64 == self.width { Ok(entries) } else { Err(BadTile) }
    }
}

/// Appends an entry to a bundle. None if it is too long.
pub fn bundle(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    bundle.extend_from_slice(&u16::try_from(entry.len()).ok()?.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// The hash over a number of hashes that is a power of two; zeros for any other number.
pub fn fold(hashes: &[Hash]) -> Hash {
    match hashes {
        [hash] => *hash,
        _ if !hashes.len().is_power_of_two() => Hash::default(),
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&fold(left), &fold(right))
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Entries => f.write_str("tile/entries/")?,
            Level::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let mut groups = vec![format!("{:03}", self.index % 1000)];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        groups.reverse();
        f.write_str(&groups.join("/"))?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, width| Tile { level, index, width }.to_string();
        assert_eq!(tile(Level::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile(Level::Hashes(1), 0, 8), "tile/1/000.p/8");
        assert_eq!(tile(Level::Entries, 1000, 256), "tile/entries/x001/000");
        for text in [
            "tile/0/1",
            "tile/0/0001",
            "tile/00/001",
            "tile/0/x000/001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/08",
            "tile/6/001",
            "tile/entries/../001",
            "tile/+1/001",
            "tile/0/x001",
            "/tile/0/001",
            "tile/0/x99999999999999999999/001",
        ] {
            assert_eq!(Tile::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_tree_has_the_tiles_that_its_size_asks_for() {
        assert_eq!(Tile::of(Level::Entries, 0, 0), None);
        assert_eq!(Tile::of(Level::Hashes(0), 2, 600).unwrap().width, 88);
        assert_eq!(Tile::of(Level::Hashes(1), 0, 600).unwrap().width, 2);
        assert_eq!(Tile::of(Level::Hashes(2), 0, 600), None);
        assert_eq!(Tile::of(Level::Hashes(0), 1, 600).unwrap().width, 256);
        assert_eq!(Tile::of(Level::Hashes(9), u64::MAX, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_path_reads_back_as_the_same_path(index in 0..1_u64 << 40, width in 1..=256_u64, level in 0..=MAX_LEVEL + 1) {
            let level = if level > MAX_LEVEL { Level::Entries } else { Level::Hashes(level) };
            let tile = Tile { level, index, width };
            prop_assert_eq!(Tile::parse(&tile.to_string()), Some(tile));
        }

        #[test]
        fn bundles_read_back(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
            let mut bytes = Vec::new();
            entries.iter().try_for_each(|entry| bundle(&mut bytes, entry)).unwrap();
            let tile = Tile { level: Level::Entries, index: 0, width: entries.len() as u64 };
            prop_assert_eq!(tile.entries(&bytes).unwrap(), entries);
            prop_assert_eq!(tile.entries(&bytes[..bytes.len() - 1]), Err(BadTile));
            bytes.push(0);
            prop_assert_eq!(tile.entries(&bytes), Err(BadTile));
        }
    }
}
