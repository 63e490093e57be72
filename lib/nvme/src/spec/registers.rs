//! Controller registers in BAR0 (§3.1) and their fields.

/// Size of BAR0 in bytes: registers, doorbells, MSI-X table and pending bits.
pub const BAR_SIZE: u64 = 0x4000;
/// Where the doorbells begin; stride 4 bytes (CAP.DSTRD 0).
pub const DOORBELLS: u64 = 0x1000;
/// Where the MSI-X table begins. It is the PCI side's: the controller reads it as zero.
pub const MSIX_TABLE: u64 = 0x2000;
/// Where the MSI-X pending bits begin. They are the PCI side's.
pub const MSIX_PENDING: u64 = 0x3000;

/// Controller Capabilities, 64 bits.
pub const CAP: u64 = 0x00;
/// Version.
pub const VS: u64 = 0x08;
/// Interrupt Mask Set.
pub const INTMS: u64 = 0x0c;
/// Interrupt Mask Clear.
pub const INTMC: u64 = 0x10;
/// Controller Configuration.
pub const CC: u64 = 0x14;
/// Controller Status.
pub const CSTS: u64 = 0x1c;
/// NVM Subsystem Reset (not supported).
pub const NSSR: u64 = 0x20;
/// Admin Queue Attributes.
pub const AQA: u64 = 0x24;
/// Admin Submission Queue Base Address, 64 bits.
pub const ASQ: u64 = 0x28;
/// Admin Completion Queue Base Address, 64 bits.
pub const ACQ: u64 = 0x30;

/// What VS reads: 1.4.0.
pub const VERSION: u32 = 0x0001_0400;
/// The most entries an I/O queue may have (CAP.MQES + 1).
pub const MAX_QUEUE_ENTRIES: u16 = 1024;

/// What CAP reads: MQES, CQR (queues contiguous), TO 10 s, DSTRD 0, NVM command set, 4 KiB pages only.
pub const CAPABILITIES: u64 = (MAX_QUEUE_ENTRIES as u64 - 1) | 1 << 16 | 20 << 24 | 1 << 37;

/// CC.EN.
pub const CC_ENABLE: u32 = 1;
/// CC.CSS, CC.MPS and CC.AMS: all must be zero here.
pub const CC_ONLY_ZERO: u32 = 0x3ff0;
/// CC with I/O queue entry sizes of 2^6 and 2^4 bytes, and nothing else.
pub const CC_ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;

/// CC.SHN: 1 normal, 2 abrupt.
pub const fn shutdown_notification(cc: u32) -> u32 {
    cc >> 14 & 3
}

/// CC.IOSQES.
pub const fn submission_entry_size(cc: u32) -> u32 {
    cc >> 16 & 15
}

/// CC.IOCQES.
pub const fn completion_entry_size(cc: u32) -> u32 {
    cc >> 20 & 15
}

/// CSTS.RDY.
pub const CSTS_READY: u32 = 1;
/// CSTS.CFS.
pub const CSTS_FATAL: u32 = 1 << 1;
/// CSTS.SHST: shutdown is under way.
pub const CSTS_SHUTDOWN_OCCURRING: u32 = 1 << 2;
/// CSTS.SHST: shutdown is complete.
pub const CSTS_SHUTDOWN_COMPLETE: u32 = 2 << 2;
/// CSTS.SHST, both bits.
pub const CSTS_SHUTDOWN_MASK: u32 = 3 << 2;

/// Offset of a submission queue's tail doorbell in BAR0.
pub const fn tail_doorbell(queue: u16) -> u64 {
    DOORBELLS + queue as u64 * 8
}

/// Offset of a completion queue's head doorbell in BAR0.
pub const fn head_doorbell(queue: u16) -> u64 {
    DOORBELLS + queue as u64 * 8 + 4
}
