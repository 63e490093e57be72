//! Whether a host runs what it should: the evidence that it gives for a nonce, the policy of whoever asks, and the
//! judgement, which anybody can make offline. The crate asks no host, reads no file and no clock, and keeps
//! nothing: time and what was seen before are arguments. It stands between a host, which may be anything, and those
//! who give it secrets; all of the evidence is hostile.
//!
//! What holds it together: the TPM's attestation key, certified by the environment's authority after it proved which
//! TPM it is in, signs registers 8 to 12 with the nonce and the host's identity key. The event log must replay to
//! these registers; each of its entries must be what a release says that the root key has signed.
#![forbid(unsafe_code)]

mod ak;
mod chain;
mod clock;
mod erasure;
mod evidence;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
mod launch;
mod policy;
mod refusal;
#[cfg(test)]
mod tests;
mod verify;

pub use ak::AkCertificate;
pub use clock::Counters;
pub use erasure::{Erasure, MAX_STATEMENT, Medium, Statement, erasure_nonce};
pub use evidence::{
    Bytes, Event, Evidence, Hash, MAX_CHAIN, MAX_CONFIGURATION, MAX_EVENTS, MAX_EVIDENCE, MAX_MANIFEST,
    MAX_STRUCTURE,
};
pub use launch::{LaunchPolicy, Release, Version};
pub use policy::{MAX_POLICY, MAX_RELEASES, Policy};
pub use refusal::{Code, Refusal};
pub use verify::{Appraisal, NONCE, PCRS, Question, qualifying_data, verify};
