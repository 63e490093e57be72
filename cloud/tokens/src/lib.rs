//! The token service: it knows its caller by certificate, decides by the rights configuration, and signs a
//! short-lived token bound to the caller's key. It keeps no record of tokens and cannot take one back; it
//! never calls a host. It stands between everybody in an environment and the hosts' doors: what callers
//! send is hostile, the rights configuration is trusted.
//!
//! The signing key exists in memory and sealed by the TPM, nowhere else.
#![forbid(unsafe_code)]

mod api;
pub mod client;
mod journal;
pub mod ledger;
mod rights;

pub use api::{Issuer, router};
pub use journal::{By, Entry, Kind, MAX_PAGE, MAX_TEXT, Page};
pub use rights::{Lifetime, Refusal, Right, Rights, RightsError};
