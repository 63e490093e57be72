//! Which hosts are of an environment, and every certificate that they hold: what can be renewed, and what must be revoked.

use crate::{Encoded, Error, read, replace};
use attest::Hash;
use ids::{Environment, HostId};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
};
use token::PublicKey;

const FILE: &str = "hosts.json";
const LOCK_FILE: &str = "hosts.lock";
const FORMAT: &str = "azote-hosts/1";
/// Longest file in bytes.
const MAX_FILE: usize = 64 * 1024 * 1024;

/// What became of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is one of the environment.
    Enrolled,
    /// It was enrolled again: it lost its identity before it ever used it.
    Replaced,
    /// It was taken out; its certificates are revoked.
    Retired,
    /// It proved that it destroyed its identity; its certificates are revoked.
    Erased,
}

/// A certificate that lives, or that is on the revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issued {
    pub(crate) serial: Encoded,
    /// Unix time in seconds.
    pub(crate) not_after: u64,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub host: HostId,
    /// What became of it.
    pub state: State,
    /// When that was, Unix time in seconds.
    pub since: u64,
    /// SHA-256 of its TPM's endorsement key.
    pub endorsement: Hash,
    /// Its identity key.
    pub identity: PublicKey,
    /// Its TPM's attestation key, `TPM2B_PUBLIC`.
    pub attestation_key: Encoded,
    /// The request for the key under which its instances prove what they are, PEM.
    pub attestation: Option<String>,
    pub(crate) issued: Vec<Issued>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    format: String,
    pub(crate) environment: Environment,
    /// Number of the last revocation list.
    pub(crate) list: u64,
    pub(crate) hosts: Vec<Member>,
}

impl Registry {
    /// Reads what is in `dir`; an empty one for `environment`, if there is none.
    pub(crate) fn read(dir: &Path, environment: Environment) -> Result<Self, Error> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(Self { format: FORMAT.to_owned(), environment, list: 0, hosts: Vec::new() });
        }
        let text = read(&path)?;
        let registry: Option<Self> = Some(&text)
            .filter(|text| text.len() <= MAX_FILE)
            .and_then(|text| serde_json::from_str(text).ok());
        match registry.filter(|registry| registry.format == FORMAT) {
            Some(registry) if registry.environment == environment => Ok(registry),
            Some(_) => Err(Error::Environment),
            None => Err(Error::Registry(path)),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|_| Error::Registry(path.clone()))?;
        replace(&path, text.as_bytes())
    }

    /// Marks the enrolled host of this name; whether there was one.
    pub(crate) fn mark(&mut self, host: &HostId, state: State, now: u64) -> bool {
        let mut found = false;
        for member in self.hosts.iter_mut().filter(|it| it.host == *host && it.state == State::Enrolled) {
            (member.state, member.since, found) = (state, now, true);
        }
        found
    }

    /// Whether a TPM can become the host of this name, or become it again.
    pub(crate) fn admits(&self, host: &HostId, endorsement: &Hash) -> Result<(), Error> {
        let mut enrolled = self.hosts.iter().filter(|it| it.state == State::Enrolled);
        match enrolled.find(|it| (it.host == *host) != (it.endorsement == *endorsement)) {
            Some(other) if other.host == *host => Err(Error::Taken(host.clone())),
            Some(other) => Err(Error::OtherHost(other.host.clone())),
            None => Ok(()),
        }
    }

    /// Forgets certificates that nobody takes any more.
    pub(crate) fn forget(&mut self, before: u64) {
        for member in &mut self.hosts {
            member.issued.retain(|issued| issued.not_after >= before);
        }
    }
}

/// Lets one process at a time change the registry.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let path: PathBuf = dir.join(LOCK_FILE);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    open.and_then(|file| file.lock().map(|()| file)).map_err(|source| Error::File { path, source })
}
