//! The controller: root of trust of a host and its only door. It measures what it starts into the TPM,
//! verifies the main board's firmware before the security chip releases reset, and serves the controller API:
//! it authenticates and authorises each request by itself, makes a record durable, acts on card, chip and main
//! board, and records the outcome.
//!
//! It stands between the network, all of which is hostile, and the host's private sockets, whose other ends
//! it does not believe either. It never sees customer content: volume keys pass it sealed to the card, guest
//! memory and console pass it by. It opens no connection to the network, runs no command for anyone, and
//! after its start no program at all: the launcher, which it started before, starts hypervisors.
//!
//! Acts happen one after the other under one lock. A card that dies takes its volumes with it until they are
//! detached and the host is started anew; a controller that starts holds reset first, so its restart is the
//! host's restart.
#![forbid(unsafe_code)]

pub mod attest;
pub mod attestation;
pub mod board;
pub mod boot;
pub mod card;
pub mod chip;
pub mod clock;
pub mod door;
pub mod enrol;
pub mod firmware;
pub mod history;
pub mod host;
pub mod hypervisors;
pub mod limits;
pub mod log;
pub mod peer;
pub mod process;
mod refusal;
pub mod run;
pub mod settings;
pub mod state;
pub mod storage;
pub mod update;
pub mod watch;

pub use refusal::Refusal;
