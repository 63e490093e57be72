//! Typed identifiers. What they are made of and how they are written is decided here and nowhere
//! else; a value of these types is always well formed. This crate does no I/O and holds no secrets; it
//! stands on every trust boundary, because each message that crosses one is parsed into these types first.
//!
//! Shapes follow EC2: a prefix, a dash and 17 lower-case hexadecimal digits (`vol-0123456789abcdef0`).
#![forbid(unsafe_code)]

mod environment;
mod identity;

pub use environment::{BadEnvironment, Environment};
pub use identity::{BadIdentity, Identity, Name};

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id: want `{prefix}-` and 17 hexadecimal digits")]
pub struct BadId {
    kind: &'static str,
    prefix: &'static str,
}

const HEX_DIGITS: usize = 17;

fn well_formed(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).is_some_and(|hex| {
        hex.len() == HEX_DIGITS && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The prefix in front of the dash.
            pub const PREFIX: &'static str = $prefix;

            /// Makes the identifier from 68 random bits (the low bits of `random`).
            pub fn from_random(random: u128) -> Self {
                Self(format!("{}-{:017x}", $prefix, random & ((1 << 68) - 1)))
            }

            /// The whole identifier, prefix included.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The hexadecimal digits alone.
            pub fn hex(&self) -> &str {
                self.0.rsplit('-').next().unwrap_or_default()
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                if well_formed(&text, $prefix) { Ok(Self(text)) } else { Err(BadId { kind: $kind, prefix: $prefix }) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A network volume, `vol-…`.
    VolumeId, "volume", "vol"
);
id!(
    /// An instance, `i-…`.
    InstanceId, "instance", "i"
);
id!(
    /// A host, `h-…` (the form that EC2 gives dedicated hosts).
    HostId, "host", "h"
);
id!(
    /// A customer key in KMS, `key-…`.
    KeyId, "key", "key"
);
id!(
    /// A KMS grant, `grant-…`.
    GrantId, "grant", "grant"
);

impl VolumeId {
    /// The NVMe serial number: the identifier without its dash, as EC2 guests see it.
    pub fn serial(&self) -> String {
        format!("vol{}", self.hex())
    }
}

/// The most volumes that one main board takes.
pub const SLOTS: u8 = 16;

/// A slot of the main board that a card's function is plugged into: 1 to [`SLOTS`] for volumes, and [`Slot::HOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Slot(u8);

/// A slot number outside 1 to [`SLOTS`], and not [`Slot::HOST`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} does not exist: the board has slots 1 to {SLOTS}")]
pub struct BadSlot(u8);

impl Slot {
    /// The slot of the function that the host itself gives each instance, behind those of volumes.
    pub const HOST: Self = Self(SLOTS + 1);
}

impl TryFrom<u8> for Slot {
    type Error = BadSlot;
    fn try_from(number: u8) -> Result<Self, BadSlot> {
        if (1..=Self::HOST.0).contains(&number) { Ok(Self(number)) } else { Err(BadSlot(number)) }
    }
}

impl From<Slot> for u8 {
    fn from(slot: Slot) -> u8 {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_random_number_makes_a_valid_id(random: u128) {
            let id = VolumeId::from_random(random);
            prop_assert_eq!(id.as_str().parse::<VolumeId>().unwrap(), id.clone());
            prop_assert_eq!(id.serial().len(), 20);
        }

        #[test]
        fn parsing_never_panics_and_never_changes_the_text(text in ".{0,40}") {
            if let Ok(id) = text.parse::<InstanceId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "vol-0123456789abcdef",
            "vol-0123456789abcdef01",
            "vol-0123456789ABCDEF0",
            "i-0123456789abcdef0",
            "vol0123456789abcdef0",
            "vol-../../../../etc/x",
        ] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
        assert!(Slot::try_from(0).is_err());
        assert_eq!(Slot::try_from(SLOTS + 1).unwrap(), Slot::HOST);
        assert!(Slot::try_from(SLOTS + 2).is_err());
    }
}
