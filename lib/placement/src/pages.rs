//! Memory: every page is clean, dirty, being scrubbed, or held by one instance.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Consecutive pages of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    /// The node, by its place in the topology.
    pub node: u16,
    /// The first page, from 0 in each node.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Sets of pages of one node: first page to number of pages, neighbours merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn len(&self) -> u64 {
        self.0.values().sum()
    }

    fn insert(&mut self, mut first: u64, mut count: u64) {
        if let Some((&before, &length)) = self.0.range(..first).next_back()
            && before + length == first
        {
            self.0.remove(&before);
            (first, count) = (before, count + length);
        }
        if let Some(length) = self.0.remove(&(first + count)) {
            count += length;
        }
        self.0.insert(first, count);
    }

    /// At most `want` pages, lowest first.
    fn take(&mut self, mut want: u64) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        while want > 0
            && let Some((first, count)) = self.0.pop_first()
        {
            let part = count.min(want);
            if part < count {
                self.0.insert(first + part, count - part);
            }
            want -= part;
            taken.push((first, part));
        }
        taken
    }
}

/// The free pages of one node. Nobody knows what a page held before the host started: all begin dirty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pool {
    node: u16,
    clean: Ranges,
    dirty: Ranges,
    scrubbing: Ranges,
}

impl Pool {
    pub(crate) fn new(node: u16, pages: u64) -> Self {
        let mut dirty = Ranges::default();
        if pages > 0 {
            dirty.insert(0, pages);
        }
        Self { node, clean: Ranges::default(), dirty, scrubbing: Ranges::default() }
    }

    /// Pages that can be given out now.
    pub(crate) fn free(&self) -> u64 {
        self.clean.len() + self.dirty.len()
    }

    /// Takes `want` pages out, clean ones first: which, and which of them must be zeroed before use. The caller
    /// has looked at [`Self::free`].
    pub(crate) fn take(&mut self, want: u64) -> (Vec<Extent>, Vec<Extent>) {
        let mut all = self.clean.take(want);
        let found: u64 = all.iter().map(|(_, count)| count).sum();
        let dirty = self.dirty.take(want - found);
        all.extend(&dirty);
        (self.extents(all), self.extents(dirty))
    }

    /// Takes pages back.
    pub(crate) fn give_back(&mut self, extent: &Extent) {
        self.dirty.insert(extent.first, extent.count);
    }

    /// At most `most` dirty pages to be zeroed while nobody waits for them.
    pub(crate) fn scrub(&mut self, most: u64) -> Vec<Extent> {
        let taken = self.dirty.take(most);
        for (first, count) in &taken {
            self.scrubbing.insert(*first, *count);
        }
        self.extents(taken)
    }

    /// The pages that were being scrubbed are zero (or, if that failed, still dirty).
    pub(crate) fn scrubbed(&mut self, zeroed: bool) {
        let to = if zeroed { &mut self.clean } else { &mut self.dirty };
        for (first, count) in std::mem::take(&mut self.scrubbing).0 {
            to.insert(first, count);
        }
    }

    fn extents(&self, ranges: Vec<(u64, u64)>) -> Vec<Extent> {
        ranges.into_iter().map(|(first, count)| Extent { node: self.node, first, count }).collect()
    }
}
