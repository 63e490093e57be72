//! The decision of the door, written once: may this call with this token be done now, and what does it use up.
//!
//! [`kernel`] is the decision without any branch, over a [`Domain`] of numbers and truths. It is read twice: services
//! run it over [`Native`] (`u64` and `bool`), the proofs over the bit-vectors of a solver, so that what is proved for
//! all inputs is the code that runs. [`quota`] counts what is used up in a window of time; [`admission`] is the life
//! of one call on a host: record, act, record, answer, through every crash.
//!
//! It reads no clock, checks no signature, keeps no state between calls and does no I/O: its callers bring it facts
//! that they have checked. It stands on the inner side of the boundary between a host and everyone who calls it.
#![forbid(unsafe_code)]

pub mod admission;
pub mod kernel;
pub mod quota;
mod reason;

pub use ::domain::{Domain, Native};
pub use kernel::{Call, Charge, Times, Verdict, decide};
pub use reason::Reason;

#[cfg(test)]
mod tests;
