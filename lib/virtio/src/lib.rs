//! virtio devices (OASIS virtio 1.3) as PCI functions over vfio-user: registers, split queues, interrupts. What a device
//! does with the buffers in its queues is the card's matter; this crate does no I/O and has no thread. Packed queues,
//! indirect descriptors, event indexes and the legacy interface are not offered.
//!
//! Trust boundary: registers, rings, descriptors and buffers are the guest's, and the guest changes them at any time.
//! Each is read once and checked after that. A ring that makes no sense breaks the device until the driver resets it
//! (`DEVICE_NEEDS_RESET`), and nothing else.
#![forbid(unsafe_code)]

mod function;
mod queue;
mod transport;

pub use function::{Function, Kind};
pub use queue::{Broken, Chain, MAX_QUEUE, Queue};
pub use transport::{ACCESS_PLATFORM, Transport, VERSION_1, Written};

#[cfg(test)]
mod tests;
