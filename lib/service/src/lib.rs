//! What all services of the control plane and the host's door share: HTTP/1.1 over TLS 1.3, callers known
//! by certificate, bounds on everything a caller can spend, one shape of error; a client for it that
//! checks *which* service answers; and the custody of a service's identity key. It knows no API but the two calls that
//! every service has, by which revocation lists and the service's next certificate are brought, and decides no rights. It
//! stands on the network boundary: bytes, certificates and times of the other side are hostile.
//!
//! Keys are exchanged by X25519MLKEM768 where the other side can. A service's identity key is an Ed25519 key
//! whose seed exists in memory and sealed by the TPM, nowhere else.
#![forbid(unsafe_code)]

mod client;
mod error;
mod files;
mod key;
pub mod process;
mod renewal;
mod server;
mod tls;
mod trust;

pub use client::{CallError, Client, MAX_ANSWER};
pub use error::{Error, ErrorBody, Json};
pub use files::{bind, write_atomic};
pub use key::{Key, KeyError, enrol, load_key, seal_to, unseal_from};
pub use renewal::{AUTHORITY, CERTIFICATE, Offered, Renewable, Shown, certificates};
pub use server::{Incident, Limits, Peer, Service, serve, stop_signal};
pub use tls::{
    Callers, Certified, Credentials, Served, TlsError, authority_key, certified_by, client_config, ends,
    list_ends, server_config, server_config_of, server_config_trusting,
};
pub use trust::{Known, MAX_LIST, REVOCATIONS, Revocations, Trust, revocations};
