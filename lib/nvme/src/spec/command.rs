//! Queue entries and the numbers in them (§4.2, §4.6, §5, §6).

use super::Status;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl $name {
            /// The meaning of `code`, where this crate implements it.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Admin commands that are implemented.
    AdminOpcode {
        /// §5.6.
        DeleteSubmissionQueue = 0x00,
        /// §5.4.
        CreateSubmissionQueue = 0x01,
        /// §5.14.
        GetLogPage = 0x02,
        /// §5.5.
        DeleteCompletionQueue = 0x04,
        /// §5.3.
        CreateCompletionQueue = 0x05,
        /// §5.15.
        Identify = 0x06,
        /// §5.1.
        Abort = 0x08,
        /// §5.21.
        SetFeatures = 0x09,
        /// §5.13.
        GetFeatures = 0x0a,
        /// §5.2.
        AsynchronousEventRequest = 0x0c,
        /// §5.7.
        DoorbellBufferConfig = 0x7c,
    }
}

codes! {
    /// I/O commands that are implemented.
    IoOpcode {
        /// §6.8.
        Flush = 0x00,
        /// §6.14.
        Write = 0x01,
        /// §6.9.
        Read = 0x02,
        /// §6.16.
        WriteZeroes = 0x08,
        /// §6.7.
        DatasetManagement = 0x09,
    }
}

codes! {
    /// Features that are implemented (§5.21.1).
    Feature {
        /// 01h.
        Arbitration = 0x01,
        /// 02h.
        PowerManagement = 0x02,
        /// 04h.
        TemperatureThreshold = 0x04,
        /// 05h.
        ErrorRecovery = 0x05,
        /// 06h.
        VolatileWriteCache = 0x06,
        /// 07h.
        NumberOfQueues = 0x07,
        /// 08h.
        InterruptCoalescing = 0x08,
        /// 09h.
        InterruptVectorConfiguration = 0x09,
        /// 0Ah.
        WriteAtomicity = 0x0a,
        /// 0Bh.
        AsynchronousEvents = 0x0b,
        /// 0Eh.
        Timestamp = 0x0e,
    }
}

/// A submission queue entry: one command.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubmissionEntry {
    /// Opcode.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier, unique within the submission queue.
    pub cid: U16,
    /// Namespace identifier.
    pub nsid: U32,
    /// Command dwords 2 and 3.
    pub cdw2: [U32; 2],
    /// Metadata pointer.
    pub mptr: U64,
    /// First PRP entry.
    pub prp1: U64,
    /// Second PRP entry, or pointer to a PRP list.
    pub prp2: U64,
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}

/// Force Unit Access, in command dword 12 of Read, Write and Write Zeroes.
pub const FUA: u32 = 1 << 30;
/// Attribute Deallocate, in command dword 11 of Dataset Management.
pub const DEALLOCATE: u32 = 1 << 2;

impl SubmissionEntry {
    /// Dwords 10 and 11 as one number: the starting LBA of I/O commands.
    pub fn lba(&self) -> u64 {
        u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get())
    }
}

/// A completion queue entry.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// Command specific result.
    pub result: U32,
    /// Reserved.
    pub reserved: U32,
    /// Head of the submission queue when the entry was made.
    pub sq_head: U16,
    /// The submission queue of the command.
    pub sq_id: U16,
    /// The command.
    pub cid: U16,
    /// Phase tag in bit 0, status field in bits 15:1.
    pub status: U16,
}

impl Completion {
    /// The status field.
    pub fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }

    /// The phase tag.
    pub fn phase(&self) -> bool {
        self.status.get() & 1 == 1
    }
}

/// One range of a Dataset Management command (§6.7.1).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DatasetRange {
    /// Context attributes.
    pub attributes: U32,
    /// Length in logical blocks.
    pub blocks: U32,
    /// First logical block.
    pub lba: U64,
}

const _: () = assert!(size_of::<SubmissionEntry>() == 64 && size_of::<Completion>() == 16);
