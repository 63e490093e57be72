//! vfio-user 0.0 (the protocol document in QEMU's `docs/interop`): a PCI function in one process, used by a
//! hypervisor in another, over a Unix stream socket.
//!
//! - [`Device`] is what a card implements, [`Session`] serves it to one connected hypervisor without ever blocking
//!   and without a thread of its own; [`Engine`] is the same without the socket.
//! - [`Client`] is the other end, blocking, for hypervisors, tests and benchmarks.
//! - [`pci`] and [`Irqs`] are the parts that every PCI function needs: configuration space and interrupt
//!   bookkeeping.
//!
//! It does not move guest memory over the socket (`DMA_READ`, `DMA_WRITE`), does not migrate devices, and opens
//! no twin socket. Such messages, and all unknown ones, are read whole and refused with an errno.
//!
//! Trust boundary: each end distrusts the other. Every length is checked, buffers are bounded, and a refused
//! message leaves the stream in step. A peer can end its own session, nothing else.
#![forbid(unsafe_code)]

mod answer;
mod client;
mod device;
mod engine;
mod inbox;
mod irq;
mod message;
mod outbox;
pub mod pci;
mod session;
mod socket;
mod version;

pub use client::{Client, ClientError, ClientState};
pub use device::{
    Area, DEFER, Device, DeviceInfo, IoEvent, Irq, IrqAction, IrqData, IrqSet, Region, RegionMapping,
};
pub use engine::{Engine, Wait};
pub use guest_memory::DmaMap;
pub use irq::Irqs;
#[doc(hidden)]
pub use message::parses;
pub use message::{MAX_FDS, MAX_MESSAGE, MAX_TRANSFER};
pub use session::{Session, SessionError};
pub use socket::Socket;

#[cfg(test)]
extern crate self as vfio_user;
#[cfg(test)]
mod tests;
