//! Bearer tokens bound to their holder's key: what the token service signs, what a caller shows, and what
//! a host checks by itself before it acts. It also has the certificate that a host gives its cards' keys.
//! The crate keeps no clock, no file and no socket: every check is a pure function of the bytes, the keys
//! and the time given. It stands on the boundary between a host and everybody who calls it; all that it
//! parses is hostile.
//!
//! A token is a CWT (RFC 8392) in a COSE_Sign1 (RFC 9052 §4.2) with EdDSA over Ed25519, base64url without
//! padding, in `Authorization: Bearer …`. It names its holder's key (`cnf`, RFC 8747); each request carries
//! a COSE_Sign1 by that key over the request in [`PROOF_HEADER`], so a stolen token is of no use. There is
//! one encoding of everything: what would not be written back byte for byte is refused.
#![forbid(unsafe_code)]

mod card;
mod claims;
pub mod cose;
mod keys;
mod proof;
mod refusal;
#[cfg(test)]
mod tests;
mod verified;
mod verifier;

pub use aws_lc_rs::signature::Ed25519KeyPair;
pub use card::{CardKeyCertificate, CardKeyRefused};
pub use claims::Claims;
pub use cose::PublicKey;
pub use keys::{KeySet, Keys};
pub use operations::{BadName, Kind, Operation as Api, Resource};
pub use proof::{Call, PROOF_AGE, PROOF_AHEAD, ProofId, ReplaySet};
pub use refusal::Refusal;
pub use verifier::Verifier;

/// The request header with `Bearer ` and the token.
pub const TOKEN_HEADER: &str = "authorization";
/// The request header with the proof of possession.
pub const PROOF_HEADER: &str = "azote-proof";
/// Longest token, and longest proof, in bytes of base64url.
pub const MAX_TOKEN: usize = 4096;
/// Most resources in one token.
pub const MAX_RESOURCES: usize = 64;
/// Longest life of a token, in seconds: a host refuses a token that says more, whoever signed it.
pub const MAX_LIFETIME: u64 = 24 * 60 * 60;
/// Most calls that one token can allow.
pub const MAX_USES: u32 = 1000;
/// How far the token service's clock may be ahead of a host's, in seconds: so much earlier than it says is a token
/// good.
pub const SKEW: u64 = PROOF_AHEAD;
/// Most public keys of the token service that a host holds: the present one and the next or last.
pub const MAX_KEYS: usize = 2;
