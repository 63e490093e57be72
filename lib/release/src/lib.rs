//! Releases: what the root key signs, and so what a host may run. The crate reads and writes signed manifests and
//! configurations; it runs nothing and decides nothing about a host's environment or age. It stands between those
//! who can write a host's disk and the host: every byte of what it reads is hostile until the root key's signature
//! over it holds.
//!
//! Everything signed is a COSE_Sign1 (`token::cose`) with a context of its own; there is one encoding of everything.
#![forbid(unsafe_code)]

mod configuration;
mod kind;
mod manifest;

pub use configuration::Configuration;
pub use kind::Kind;
pub use manifest::{Image, MAX_IMAGES, MAX_VERSION, Manifest};

/// Longest signed manifest or configuration in bytes.
pub const MAX_SIGNED: usize = 16 * 1024;

/// Why something signed is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not of this format.
    #[error("this is no manifest or configuration of this format")]
    Malformed,
    /// The root key did not sign it, or not as this.
    #[error("the root key has not signed this")]
    Signature,
}

/// The payload of what the root key signed in this context.
fn payload(bytes: &[u8], root: &token::PublicKey, context: &[u8]) -> Result<Vec<u8>, Refused> {
    let message = Some(bytes).filter(|bytes| bytes.len() <= MAX_SIGNED).and_then(token::cose::parse);
    let message = message.ok_or(Refused::Malformed)?;
    if !token::cose::signed_by(&message, &[*root], context) {
        return Err(Refused::Signature);
    }
    message.payload.ok_or(Refused::Malformed)
}
