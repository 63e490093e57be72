//! The typed messages of the private sockets inside a host: controller to volume card, to attestation card, to
//! security chip, to main board, to launcher and to hypervisor, and security chip to main board. Requests go one way,
//! each gets exactly one reply; nothing here starts a conversation upwards. This crate moves messages and file
//! descriptors; it makes no decision. Both ends parse what the other end says as hostile input.
//!
//! One message is one packet of a `SOCK_SEQPACKET` Unix socket: JSON of at most [`MAX_MESSAGE`] bytes,
//! with at most [`MAX_FDS`] file descriptors beside it.
#![forbid(unsafe_code)]

pub mod attestation;
pub mod board;
pub mod card;
pub mod chip;
pub mod hypervisor;
pub mod launcher;
mod link;

pub use link::{Fault, Link, LinkError, Listener, MAX_FDS, MAX_MESSAGE, connect};

/// Bytes as base64 text, for serde's `with`.
pub mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes bytes as base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads base64 into bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("not base64"))
    }
}
