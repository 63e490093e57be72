//! Secrets in locked memory, volume keys sealed to one card for one volume of one host, and an instance's console
//! sealed between its machine and its tenant. It holds keys and moves them between the key service and a card; it
//! does not store them, and it decides nothing about who may have one. It stands on the boundary between the
//! receiver and everything that carries a sealed message to it: those bytes are hostile until they have opened.
//!
//! A volume key's sealing is HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
//! The parent of trust is not here: that a public key belongs to a card is told by the card key
//! certificate (`token`).

pub mod console;
mod hpke_key;
mod kernel;
mod secret;
mod volume_key;

pub use hpke_key::{CardKey, Context, PUBLIC_KEY_SIZE, SEALED_SIZE, seal};
pub use secret::{LockError, Secret};
pub use volume_key::VolumeKey;

/// Why a key was not made, sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The two halves of an XTS key are equal (IEEE 1619, FIPS 140-3 IG C.I forbid it).
    #[error("the two halves of the volume key are equal: make a new key")]
    HalvesEqual,
    /// The bytes are no key sealed to this card for this context.
    #[error("the sealed key does not open: seal it again to this card's key for this host and volume")]
    Sealed,
    /// No 32-byte X25519 public key, or one of small order.
    #[error("not a card's public key: ask the host for its card key certificate again")]
    PublicKey,
    /// No locked memory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl KeyError {
    /// The stable code, as it crosses the private sockets.
    pub fn code(&self) -> &'static str {
        match self {
            Self::HalvesEqual => "key.halves-equal",
            Self::Sealed => "key.sealed",
            Self::PublicKey => "key.public",
            Self::Lock(_) | Self::Random => "key.memory",
        }
    }
}
