//! Controller to security chip, the reset lines from the chip to the main board, and the board's buses to the chip.

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
    /// Let a reset line go. Refused with `chip.unverified` unless the controller names, for every protected
    /// region, the hash that the region has at this moment; with `chip.order` for the processors' line while the
    /// board's is held.
    Release {
        /// Which line.
        line: Line,
        /// What the controller verified.
        firmware: Firmware,
    },
    /// Hold a line; with the board's, the processors' too.
    Hold {
        /// Which line.
        line: Line,
    },
    /// Allow exactly one image (by hash and length) to be written into a protected region. The processor that
    /// starts from it must be held. The image itself comes with the descriptor beside the message; the chip copies
    /// it, checks the copy against the hash, writes, reads back, and compares.
    Update {
        /// Which region: not the variables.
        region: Region,
        /// SHA-256 of the whole image, hexadecimal.
        sha256: String,
    },
    /// The events since `after` (a sequence number, 0 for all that are kept). Answered with [`Reply::Events`].
    Events {
        /// Give only events with a greater sequence number.
        after: u64,
    },
}

/// The hashes of all protected regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// SHA-256 of the code region, hexadecimal.
    pub code: String,
    /// SHA-256 of the BMC's region, hexadecimal; none on a board whose BMC has no flash.
    pub bmc: Option<String>,
}

/// The reset lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The management controller.
    Bmc,
    /// The board but for the other two.
    Board,
    /// The processors.
    Cpu,
}

/// How a reset line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    /// Stopped, and staying so.
    Held,
    /// Started from the bytes that the flash held at that moment.
    Released,
}

/// How every reset line is. The chip tells the main board each change, on a socket of their own, and after it has
/// connected; answered with [`LineReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    /// The management controller's.
    pub bmc: Reset,
    /// The board's.
    pub board: Reset,
    /// The processors'.
    pub cpu: Reset,
}

impl Lines {
    /// All of them held.
    pub const HELD: Self = Self { bmc: Reset::Held, board: Reset::Held, cpu: Reset::Held };
    /// All of them let go.
    pub const RELEASED: Self = Self { bmc: Reset::Released, board: Reset::Released, cpu: Reset::Released };

    /// Whether the processors run: they wait for the board.
    pub fn run(self) -> bool {
        (self.board, self.cpu) == (Reset::Released, Reset::Released)
    }
}

/// The main board's answer on the reset lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LineReply {
    /// The lines have taken effect.
    Done,
    /// The board could not follow.
    Fault(crate::Fault),
}

/// The parts of the firmware flashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// Firmware code of the processors. Nobody on the main board ever writes it.
    Code,
    /// The processors' variables. They write to a copy that each of their starts drops.
    Variables,
    /// The management controller's firmware. Nobody on the main board ever writes it.
    Bmc,
}

/// Longest that a master sends or reads in one transaction, in bytes.
pub const MAX_TRANSFER: u16 = 4096;

/// One transaction of a bus master of the main board. Each master has a socket of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Transaction {
    /// Selects a flash, sends, then reads.
    Spi {
        /// 0: the processors' flash, 1: the BMC's.
        select: u8,
        /// What is sent.
        #[serde(with = "crate::base64_bytes")]
        out: Vec<u8>,
        /// How many bytes are read, [`MAX_TRANSFER`] at most.
        read: u16,
    },
    /// Addresses a device, sends, then reads.
    I2c {
        /// The device, seven bits.
        address: u8,
        /// What is sent.
        #[serde(with = "crate::base64_bytes")]
        out: Vec<u8>,
        /// How many bytes are read, [`MAX_TRANSFER`] at most.
        read: u16,
    },
}

/// What came of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BusReply {
    /// What was read. A bus to which nothing answers reads as ones.
    Data {
        /// The bytes.
        #[serde(with = "crate::base64_bytes")]
        bytes: Vec<u8>,
        /// Whether the device acknowledged: always, on SPI.
        acknowledged: bool,
    },
    /// This was no transaction.
    Fault(crate::Fault),
}

/// What the chip answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// The present state.
    Status {
        /// How the reset lines are.
        lines: Lines,
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
    /// A master of the main board tried to write what it may not, and was refused.
    WriteRefused(Attempts),
    /// A master of the main board tried to read what is not its own, and was refused.
    ReadRefused(Attempts),
    /// A line was let go.
    ResetReleased {
        /// Which one.
        line: Line,
    },
    /// A line was taken.
    ResetHeld {
        /// Which one.
        line: Line,
    },
    /// An authorised image was written and read back.
    Updated {
        /// Into which region.
        region: Region,
        /// SHA-256 of the image.
        sha256: String,
    },
    /// An update was refused.
    UpdateRefused {
        /// The fault's code.
        code: String,
    },
}

/// A bus master of the main board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Master {
    /// The processors, and so the guest.
    Cpu,
    /// The management controller.
    Bmc,
}

/// What a refused access was to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Firmware code of the processors.
    Code,
    /// The processors' variables.
    Variables,
    /// The management controller's firmware.
    Bmc,
    /// What a flash keeps beside its bytes: protection bits, one-time areas, all that unknown commands change.
    Registers,
    /// The memory that says which board this is.
    Identity,
    /// The reset controller.
    ResetController,
}

/// Refused accesses of one master to one target, in a row: they count as one event until it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempts {
    /// Who.
    pub master: Master,
    /// To what.
    pub target: Target,
    /// Offset of the first attempt in the target, in bytes.
    pub offset: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Attempts so far.
    pub attempts: u64,
    /// How many of them would have changed something. Firmware that looks for its flash writes what is there.
    pub changing: u64,
}
