//! What is asked for, what is to be done, and why not.

use crate::{Burstable, Carried, Extent, Mode};
use ids::InstanceId;
use serde::{Deserialize, Serialize};

/// What an instance is to get.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Bytes: a multiple of the page size, not 0.
    pub memory: u64,
    /// CPUs.
    pub cpus: Cpus,
}

/// What an instance gets of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// Whole cores for life.
    Fixed {
        /// A multiple of the threads of a core.
        vcpus: u32,
    },
    /// Turns on whole cores.
    Burstable {
        /// What the type promises.
        kind: Burstable,
        /// What happens when no credits are left.
        mode: Mode,
        /// From before its last stop.
        carried: Option<Carried>,
    },
}

/// Where a vCPU runs. The guest is told the truth about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vcpu {
    /// The kernel's number of the CPU.
    pub cpu: u32,
    /// The core, from 0 in each node; vCPUs with the same node and core are siblings.
    pub core: u32,
    /// The node, by its place in the topology.
    pub node: u16,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Overwrite these pages with zeros. Nobody has them.
    Zero {
        /// Who is to get them, if they are not zeroed for stock.
        instance: Option<InstanceId>,
        /// Which.
        pages: Vec<Extent>,
    },
    /// Give these pages to the instance: present, locked, never merged with others, never swapped.
    Reserve {
        /// Whose they are from now on.
        instance: InstanceId,
        /// All its memory, in the order of its physical addresses.
        memory: Vec<Extent>,
    },
    /// Let each vCPU run on its CPU and nowhere else. It does not run yet.
    Pin {
        /// Whose vCPUs.
        instance: InstanceId,
        /// In the order of the vCPUs.
        vcpus: Vec<Vcpu>,
    },
    /// Flush what the cores of these CPUs remember: L1 data cache, branch predictors, buffers. Nobody runs there.
    Flush {
        /// Who is to run there next.
        instance: InstanceId,
        /// All threads of the cores.
        cpus: Vec<u32>,
    },
    /// Let the instance's vCPUs run.
    Run {
        /// Which instance.
        instance: InstanceId,
        /// When its turn ends; a fixed instance's never does.
        until: Option<u64>,
    },
    /// Take its vCPUs off their CPUs, and wait until they are.
    Pause {
        /// Which instance.
        instance: InstanceId,
    },
    /// End its process and wait until it is gone, and with it all mappings of its memory, those of cards too.
    Release {
        /// Which instance.
        instance: InstanceId,
    },
}

/// Why an instance cannot be placed. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The description of the board contradicts itself.
    #[error("the board's description is wrong: describe each CPU once, and cores of the same shape")]
    Topology,
    /// It has been placed before.
    #[error("the instance is placed already: stop it first")]
    Placed,
    /// It has not been placed.
    #[error("no such instance is placed here")]
    Unknown,
    /// No type is like that.
    #[error("no instance type has these CPUs: ask for whole cores, or for a baseline from 1 to 10000")]
    Type,
    /// The memory is no whole number of pages, or none.
    #[error("memory is given out in whole pages: ask for a multiple of the page size")]
    MemorySize,
    /// No node has enough whole cores free, or turns on them.
    #[error("not enough free cores near each other: place the instance on another host")]
    Cores,
    /// No node with the cores has the memory.
    #[error("not enough free memory near the cores: place the instance on another host")]
    Memory,
}

impl PlacementError {
    /// Stable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Topology => "placement.topology",
            Self::Placed => "placement.placed",
            Self::Unknown => "placement.unknown",
            Self::Type => "placement.type",
            Self::MemorySize => "placement.memory-size",
            Self::Cores => "placement.cores",
            Self::Memory => "placement.memory",
        }
    }
}
