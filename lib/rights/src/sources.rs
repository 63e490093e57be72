//! The files of the configuration, and the hash that a review speaks of.

use crate::{FLOOR, RightsError};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{fmt, fs::File, io::Read as _, path::Path, str::FromStr};

/// Longest file in bytes.
pub(crate) const MAX_FILE: u64 = 256 * 1024;

/// The texts of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// `groups.toml`
    pub groups: String,
    /// `quotas.toml`
    pub quotas: String,
    /// `rights.cedar`
    pub policies: String,
    /// `schema.cedarschema`
    pub schema: String,
}

/// The texts that this release was built with.
pub fn sources() -> Sources {
    Sources {
        groups: include_str!("../../../policies/groups.toml").to_owned(),
        quotas: include_str!("../../../policies/quotas.toml").to_owned(),
        policies: include_str!("../../../policies/rights.cedar").to_owned(),
        schema: include_str!("../../../policies/schema.cedarschema").to_owned(),
    }
}

impl Sources {
    /// The four files of a folder; those of this release without one.
    pub fn of(folder: Option<&Path>) -> Result<Self, RightsError> {
        folder.map_or_else(|| Ok(sources()), Self::read)
    }

    /// Reads the four files of a folder.
    pub fn read(folder: &Path) -> Result<Self, RightsError> {
        let read = |name| read(&folder.join(name), name);
        Ok(Self {
            groups: read("groups.toml")?,
            quotas: read("quotas.toml")?,
            policies: read("rights.cedar")?,
            schema: read("schema.cedarschema")?,
        })
    }

    /// One line for each file and for the compiled-in floor: the SHA-256 in hexadecimal, two spaces, the name;
    /// what `sha256sum` prints.
    pub fn listing(&self) -> String {
        let files = [
            ("floor.cedar", FLOOR),
            ("groups.toml", self.groups.as_str()),
            ("quotas.toml", self.quotas.as_str()),
            ("rights.cedar", self.policies.as_str()),
            ("schema.cedarschema", self.schema.as_str()),
        ];
        files.iter().map(|(name, text)| format!("{}  {name}\n", SetHash::of(text))).collect()
    }

    /// The hash of [`Sources::listing`].
    pub fn hash(&self) -> SetHash {
        SetHash::of(&self.listing())
    }
}

fn read(path: &Path, name: &'static str) -> Result<String, RightsError> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| RightsError::Read(name, error))?;
    let length = file.take(MAX_FILE + 1).read_to_string(&mut text);
    length.map_err(|error| RightsError::Read(name, error))?;
    if text.len() as u64 > MAX_FILE { Err(RightsError::Size(name, "256 KiB")) } else { Ok(text) }
}

/// SHA-256 of a configuration; 64 lower-case hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetHash([u8; 32]);

impl SetHash {
    fn of(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SetHash {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const BAD: &str = "not a hash: want 64 lower-case hexadecimal digits";
        let digits =
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut bytes = [0; 32];
        for (n, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(2 * n..2 * n + 2).filter(|_| digits).ok_or(BAD)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BAD)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for SetHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SetHash> for String {
    fn from(hash: SetHash) -> String {
        hash.to_string()
    }
}
