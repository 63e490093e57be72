//! Controller to the main board's management controller (BMC): which functions sit in which slot, and
//! the power button. Starting and stopping is the reset line's matter (`chip`), not this socket's.

use ids::Slot;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the controller asks of the main board.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered with [`Reply::Status`].
    Status,
    /// Plug the PCI function behind a vfio-user socket into a slot: at the next release of reset while
    /// reset is held, at once (hot-plug) while the board runs.
    Plug {
        /// The slot.
        slot: Slot,
        /// The function's listening Unix socket.
        socket: PathBuf,
    },
    /// Forget the slot's function: it is not there after the next reset. A running guest must have removed
    /// the device before.
    Unplug {
        /// The slot.
        slot: Slot,
    },
    /// Press the power button (ACPI). The guest decides what it does.
    PowerButton,
}

/// What the main board answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// The present state.
    Status(Status),
    /// Refused or failed.
    Fault(crate::Fault),
}

/// State of the main board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Power and reset.
    pub power: Power,
    /// Occupied slots.
    pub slots: Vec<Slot>,
    /// What executes the guest: `kvm` or `tcg`.
    pub accelerator: String,
    /// Times that the board has started from its firmware.
    pub boots: u64,
}

/// Power state of the main board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Powered, processors held in reset.
    Held,
    /// Processors run.
    Running,
    /// The guest switched itself off; the next release of reset starts it again.
    Off,
}
