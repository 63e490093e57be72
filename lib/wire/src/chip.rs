//! Controller to security chip, and the reset line from the chip to the main board.

use serde::{Deserialize, Serialize};

/// What the controller asks of the security chip.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered with [`Reply::Status`].
    Status,
    /// Give the SHA-256 of a flash region as it is now. Answered with [`Reply::Measured`].
    Measure {
        /// Which region.
        region: Region,
    },
    /// Let the reset line go. Refused with `chip.unverified` unless the controller names, for every
    /// protected region, the hash that the region has at this moment.
    ReleaseReset {
        /// SHA-256 of the code region, hexadecimal, as the controller verified it.
        code: String,
    },
    /// Hold the main board in reset.
    HoldReset,
    /// Allow exactly one image (by hash and length) to be written into the code region. The reset line
    /// must be held. The image itself comes with the descriptor beside the message; the chip copies it,
    /// checks the copy against the hash, writes, reads back, and compares.
    Update {
        /// SHA-256 of the whole image, hexadecimal.
        sha256: String,
    },
    /// The events since `after` (a sequence number, 0 for all that are kept). Answered with [`Reply::Events`].
    Events {
        /// Give only events with a greater sequence number.
        after: u64,
    },
}

/// The parts of the firmware flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// Firmware code. The main board never writes it.
    Code,
    /// The firmware's variables. The main board writes to a copy that each of its starts drops.
    Variables,
}

/// What the chip answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// The present state.
    Status {
        /// Whether the main board is held in reset.
        reset_held: bool,
        /// Refused writes since the chip started.
        refused_writes: u64,
    },
    /// A region's hash.
    Measured {
        /// SHA-256, hexadecimal.
        sha256: String,
        /// Length of the region in bytes.
        length: u64,
    },
    /// Recorded events, oldest first.
    Events {
        /// The events.
        events: Vec<Event>,
        /// How many were dropped because the record was full.
        dropped: u64,
    },
    /// Refused or failed.
    Fault(crate::Fault),
}

/// Something that the chip saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Increases by one with each event.
    pub seq: u64,
    /// What happened.
    pub what: EventKind,
}

/// Kinds of [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EventKind {
    /// The main board tried to write its firmware and was refused. Neighbouring attempts count as one event.
    WriteRefused {
        /// Which region.
        region: Region,
        /// Offset of the first refused byte in the region.
        offset: u64,
        /// Bytes refused so far.
        bytes: u64,
        /// Attempts so far.
        attempts: u64,
        /// How many of them would have changed something. Firmware that looks for its flash writes what is there.
        changing: u64,
    },
    /// Reset was let go.
    ResetReleased,
    /// Reset was taken.
    ResetHeld,
    /// An authorised image was written and read back.
    Updated {
        /// SHA-256 of the image.
        sha256: String,
    },
    /// An update was refused.
    UpdateRefused {
        /// The fault's code.
        code: String,
    },
}

/// The reset line: what the chip tells the main board, on a socket of their own. Answered with
/// [`LineReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Stop at once and stay in reset.
    Hold,
    /// Start from the bytes that the flash holds now.
    Release,
}

/// The main board's answer on the reset line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LineReply {
    /// The line has taken effect.
    Done,
    /// The board could not follow.
    Fault(crate::Fault),
}
