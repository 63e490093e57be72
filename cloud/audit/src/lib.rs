//! The audit service: it pulls every host's log, the token service's journal and the callers' own accounts into one
//! Merkle log that others can verify, compares them with one another, and tells the monitor. It acts on nothing and
//! holds no customer's data. It stands off the hosts: what hosts, services, callers, readers and witnesses send is
//! hostile, and its own files are checked against its signature before it goes on from them.
#![forbid(unsafe_code)]

pub mod api;
pub mod book;
pub mod caller;
pub mod client;
pub mod entry;
pub mod keeper;
pub mod note;
pub mod pull;
pub mod readers;
pub mod reconcile;
pub mod store;
pub mod throttle;
pub mod tile;
pub mod tree;
pub mod verify;
mod watch;
pub mod witnesses;
