//! The volume card: one process that shows network volumes as NVMe functions and keeps them encrypted. It is
//! told what to do by the controller over the one socket that it inherits, and opens nothing itself: backing
//! files and listening sockets come as descriptors. It decides nothing about who may have which volume, and
//! it does not replicate or snapshot.
//!
//! Two trust boundaries meet here. Towards the main board: every message, command, queue and address comes
//! from a hypervisor and a guest that may lie, and ends in an error for them alone. Towards the storage:
//! what leaves is ciphertext, and what comes back may be anything of the right length. Volume keys arrive
//! sealed to a key that the card makes at its start; they live in locked memory until the volume is
//! detached, and nowhere else.
//!
//! One thread runs one io_uring. While guests are busy it polls their shadow doorbells; after some tens of
//! microseconds without work it asks for a doorbell write and sleeps in the kernel.

mod card;
mod copy;
mod endpoint;
mod guest;
mod job;
mod jobs;
mod pool;
mod refusal;
mod ring;
mod store;
mod volume;

pub use card::{Card, CardError};

/// The most volumes that one card shows at once, to the main board or to several machines.
pub const MAX_VOLUMES: usize = 64;
/// The most commands of one volume that are with the storage at once.
pub const MAX_IN_FLIGHT: u16 = 256;
/// The sandbox that the process enters before it reads input.
pub const SANDBOX: &str = include_str!("../../../../sandbox/volume-card.toml");
