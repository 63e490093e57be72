//! The table of every operation that anyone has on a host: the one place where an operation is declared.
//! The server's routing, the client, the OpenAPI document, the documentation table and the Cedar schema are
//! made from it. This crate does no I/O, holds no secret and decides nothing; it stands on the boundary
//! between everybody who asks and every host that answers, so that both mean the same by a name.
//!
//! No operation runs a command, reads a path, opens a shell, copies content or weakens a protection, and
//! none carries customer content in the clear: [`DataClass`] has no such class, and a console passes sealed.
#![forbid(unsafe_code)]

#[macro_use]
mod words;
mod resource;
mod table;

pub use resource::Resource;
pub use table::Operation;
pub use words::{BadName, Caller, DataClass, Effect, Kind, Method};

/// What the host's log holds about every attempt; [`Operation::audit_fields`] adds what is an operation's own.
pub const AUDIT_FIELDS: &[&str] =
    &["seq", "time", "kind", "api", "subject", "token", "request", "resources", "peer", "intent", "code"];
