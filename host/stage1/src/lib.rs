//! Stage 1: what the boot ROM starts. It verifies the root key's signature over the release's manifest, its environment
//! and its security version, then the controller against the manifest; it measures both into the TPM and becomes the
//! controller. It opens no secret, knows no network, and outlives nothing: the controller verifies all that follows.
//!
//! It stands between a host's disk, which is hostile, and the controller. What it trusts, the boot ROM hands it in
//! sealed memory: the event log, and its own verified header with the root key in it.
#![forbid(unsafe_code)]

mod arguments;
mod start;

pub use arguments::Arguments;
pub use start::{Handed, Ready, Refusal, hold_against, prepare};
