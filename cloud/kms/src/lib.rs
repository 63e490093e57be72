//! The key service: it makes customer keys, data keys under them, and grants; and it opens a volume key only
//! to seal it again to one host's certified card, after that host has shown what it runs (`attest`); or, once, to the
//! machine on which its owner encrypts an image. It never gives a key in plain and imports none. It stands between tenants, the control plane and the cards; all that
//! callers send, ciphertexts and certificates included, is hostile, and so is what its store holds.
//!
//! | key | is | under |
//! |---|---|---|
//! | root | 32 bytes, sealed by the TPM | the TPM |
//! | customer key | AES-256-GCM, in the store | the root key, bound to its id |
//! | data key | 1 to 1024 bytes, in the caller's ciphertext | a customer key, bound to the encryption context |
//!
//! Plain keys are in locked memory, for the time of one call; the root key, for the life of the process.
#![forbid(unsafe_code)]

mod api;
mod blob;
mod cipher;
pub mod client;
mod context;
mod error;
mod hosts;
mod keys;
mod store;

pub use api::router;
pub use blob::key_of;
pub use context::EncryptionContext;
pub use error::KmsError;
pub use hosts::{MAX_NONCES, NONCE_LIFE};
pub use keys::Kms;

/// Longest ciphertext of a data key in bytes.
pub const MAX_CIPHERTEXT: usize = 6144;
/// Longest data key in bytes.
pub const MAX_DATA_KEY: u16 = 1024;
/// Most keys of one tenant.
pub const MAX_KEYS: u64 = 1000;
/// Most grants of one key at a time; those that have expired do not count.
pub const MAX_GRANTS: u64 = 1000;
/// Longest life of a grant in seconds.
pub const MAX_GRANT_LIFE: u32 = 24 * 60 * 60;
/// Longest life of a grant for an importer in seconds.
pub const MAX_IMPORT_LIFE: u32 = 15 * 60;
