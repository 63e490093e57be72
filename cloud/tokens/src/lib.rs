//! The token service: it knows its caller by certificate or by an ID token, decides by the rights configuration,
//! counts quotas, writes each decision down, and only then signs a short-lived token bound to the caller's key. It
//! cannot take a token back; it never calls a host. It stands between everybody in an environment and the hosts'
//! doors: what callers send is hostile; the rights configuration is trusted once its review is verified.
//!
//! The signing keys exist in memory and, wrapped, in the store; the wrapping key in memory and sealed by the TPM.
#![forbid(unsafe_code)]

mod api;
pub mod client;
mod inventory;
mod issuer;
mod journal;
mod keyring;
pub mod ledger;
pub mod oidc;
mod recorder;
pub mod rotation;
mod standing;
mod store;
mod time;

pub use api::{router, watch, watch_hosts};
pub use inventory::Inventory;
pub use issuer::{Caller, Issuer, Refusal};
pub use journal::{By, Entry, Kind, MAX_PAGE, MAX_TEXT, Page, Used};
pub use keyring::{Keyring, KeyringError, Prepared, Schedule, WRAPPING_KEY};
pub use oidc::{Oidc, OidcRefused};
pub use recorder::{JOURNAL_CAPACITY, Opened, Recorder};
pub use standing::{Life, Standing};
pub use store::StoreError;
