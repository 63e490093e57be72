//! Runs guests under the hypervisor and reads what they report: the self-checking guest of `machine/`, whose image
//! is part of this crate, and Debian's unmodified cloud kernel. It plays the controller, the card's controller and
//! the tenant at once, so it belongs to the lab and never runs on a host.
//!
//! What guests write on their consoles is parsed as hostile: bounded, and never more than text.
#![deny(unsafe_code)]

mod admin;
pub mod attestation;
pub mod bell;
pub mod bench;
pub mod card;
pub mod cpio;
pub mod facts;
pub mod linux;
pub mod nested;
pub mod passthrough;
pub mod peer;
pub mod pulse;
pub mod report;
pub mod rig;
pub mod scenario;
pub mod tpm;

use std::{io, path::Path};
use wire::{Fault, LinkError, hypervisor::Reply};

/// The self-checking guest: an ELF file with a PVH entry.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program does not start.
    #[error("cannot start {program}: {source}; `cargo build --bins` makes it")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The other side of a private socket.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The hypervisor or the card refused.
    #[error("refused: {0}")]
    Refused(#[from] Fault),
    /// An answer that does not fit.
    #[error("unexpected: {0}")]
    Unexpected(String),
    /// The console.
    #[error(transparent)]
    Console(#[from] seal::console::ConsoleError),
    /// A file or the system.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The lab's parts.
    #[error(transparent)]
    Parts(#[from] parts::Error),
    /// The host's hardware.
    #[error(transparent)]
    Claim(#[from] vfio::ClaimError),
    /// The root image.
    #[error(transparent)]
    Image(#[from] image::Error),
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

impl Error {
    fn start(program: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Start { program: program.display().to_string(), source }
    }

    fn refused(reply: Reply) -> Self {
        match reply {
            Reply::Fault(fault) => Self::Refused(fault),
            other => Self::Unexpected(format!("{other:?}").chars().take(200).collect()),
        }
    }
}
