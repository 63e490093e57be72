//! What there is to give out.

use crate::PlacementError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The part of a board that instances may have. What the host itself runs on is left out of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Topology {
    /// Bytes of a page: the unit in which memory is given out (2 MiB or 1 GiB where there are huge pages).
    pub page_size: u64,
    /// NUMA nodes. A [`crate::Extent`] names one by its place here.
    pub nodes: Vec<Node>,
}

/// Cores and memory that are near each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// Physical cores.
    pub cores: Vec<Core>,
    /// Pages.
    pub pages: u64,
}

/// A physical core: all its SMT siblings, by the kernel's CPU numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Core {
    /// CPU numbers.
    pub cpus: Vec<u32>,
}

impl Topology {
    /// Refuses what cannot be: a CPU in two cores, cores without threads or with different numbers of them.
    pub(crate) fn check(&self) -> Result<(), PlacementError> {
        let cores = || self.nodes.iter().flat_map(|node| &node.cores);
        let mut seen = BTreeSet::new();
        let distinct = cores().flat_map(|core| &core.cpus).all(|cpu| seen.insert(*cpu));
        let even = cores().all(|core| core.cpus.len() == self.threads() && !core.cpus.is_empty());
        let sized = self.page_size.is_power_of_two() && self.nodes.iter().all(|n| n.pages <= MAX_PAGES);
        let numbered = u16::try_from(self.nodes.len()).is_ok();
        if distinct && even && sized && numbered { Ok(()) } else { Err(PlacementError::Topology) }
    }

    /// SMT threads of a core; 1 without SMT.
    pub(crate) fn threads(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.cores).map(|core| core.cpus.len()).next().unwrap_or(1)
    }
}

/// So that sums of pages cannot overflow.
const MAX_PAGES: u64 = 1 << 40;
