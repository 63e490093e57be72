//! The rights configuration: who may do what on which resources, decided by Cedar under strict validation.
//! The crate reads the files of `policies/`, decides on what somebody asks for, names the quotas that it
//! counts against, checks that two people reviewed the files, and says in words what a change newly allows.
//! It counts no quota, signs no token, knows no clock, and does no I/O but read the files it is told to. It
//! stands between everybody in an environment and the token service: what callers ask for is hostile, and
//! so are the files, until their review is verified.
//!
//! Below the configurable policies lies a floor that is compiled in ([`FLOOR`]); no file can lift it.
#![forbid(unsafe_code)]

mod changes;
mod corners;
mod decide;
mod depth;
mod error;
mod floor;
mod groups;
mod policies;
mod quotas;
mod review;
mod reviewed;
mod schema;
mod sources;
mod table;
#[cfg(test)]
mod tests;

pub use changes::{Change, Direction, changes};
pub use decide::{Ask, Grant, Refusal};
pub use error::RightsError;
pub use floor::{FLOOR, floor};
pub use groups::{Action, Attestation, Environment, Fleet, Group, Groups, HostFacts};
pub use policies::Rights;
pub use quotas::{Quota, QuotaKey, Quotas, Scope, TokenBounds};
pub use review::{Review, ReviewRefused, Reviewer, Reviewers};
pub use reviewed::{Reviewed, Unfit};
pub use schema::{schema, wide_schema};
pub use sources::{SetHash, Sources, sources};
pub use table::Right;
