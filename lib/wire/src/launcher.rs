//! Controller to launcher, the process that starts hypervisors. A request says which instance and nothing of how:
//! the program, its user and its limits are the launcher's own.

use crate::Fault;
use ids::InstanceId;
use serde::{Deserialize, Serialize};

/// The most hypervisors at once, and the most ends that wait to be told.
pub const MAX_PROCESSES: usize = 256;

/// What the controller asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Start a hypervisor for `instance`. Descriptor: its end of a connected `SOCK_SEQPACKET` pair, which becomes its
    /// standard input and speaks [`crate::hypervisor`]. Answered with [`Reply::Done`].
    Start {
        /// Which instance; it must have no hypervisor, and no end of one that is not told yet.
        instance: InstanceId,
    },
    /// Kill the instance's hypervisor if it still runs. Answered with [`Reply::Ended`] once it is gone.
    End {
        /// Which instance.
        instance: InstanceId,
    },
    /// Which ones ended by themselves? Answered with [`Reply::AllEnded`].
    Ended,
}

/// What the launcher answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// How the one that was asked for ended.
    Ended(Ended),
    /// Those that ended since this was last asked; each is told once, here or by [`Reply::Ended`].
    AllEnded {
        /// One entry each.
        ended: Vec<Ended>,
    },
    /// Refused or failed.
    Fault(Fault),
}

/// How a hypervisor ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Whose it was.
    pub instance: InstanceId,
    /// Its exit status, if it left by itself.
    pub code: Option<i32>,
    /// The signal that killed it, otherwise.
    pub signal: Option<i32>,
}
