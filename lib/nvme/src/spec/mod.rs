//! What the NVMe base specification 1.4 and the EBS tools fix: layouts and numbers, no behaviour.

pub mod command;
pub mod identify;
pub mod log;
pub mod registers;
pub mod status;

pub use command::{AdminOpcode, Completion, Feature, IoOpcode, SubmissionEntry};
pub use status::Status;

/// The only memory page size on offer (CC.MPS 0), in bytes.
pub const PAGE: u64 = 4096;
/// Size of a submission queue entry in bytes.
pub const SUBMISSION_ENTRY: u64 = 64;
/// Size of a completion queue entry in bytes.
pub const COMPLETION_ENTRY: u64 = 16;
/// The namespace identifier that means every namespace.
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;
