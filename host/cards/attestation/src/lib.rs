//! The attestation card: one process that gives each instance of a host a virtio function (device 33) by which it gets
//! signed documents about itself. It is told by the controller, over the one socket that it inherits, which instances
//! there are and what they started from; it decides nothing about that, opens nothing, and measures nothing itself.
//!
//! Two trust boundaries meet here. Towards the machines: every message, register, ring and request comes from a
//! hypervisor and a guest that may lie, and ends in an error for them alone; what one instance did to its registers is
//! seen by no other. Towards everybody: the key by which documents are certified is born here and never leaves; the
//! controller gets its public half only, and certifies it for one instance at a time.
//!
//! One thread waits for all sockets. A guest gets one answer in its turn, so that none keeps the others waiting.
#![forbid(unsafe_code)]

mod card;
mod instance;
mod pairs;

pub use card::{Card, CardError};
pub use pairs::{DEVICE, QUEUE, answer};

/// The sandbox that the process enters before it reads input.
pub const SANDBOX: &str = include_str!("../../../../sandbox/attestation-card.toml");
