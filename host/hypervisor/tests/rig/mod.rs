//! What the tests of the machine without KVM share.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "not every test needs all of it"
)]

pub mod device;
pub mod guest;
pub mod hostile;
pub mod liar;
pub mod nvme;
pub mod received;
pub mod recorder;
