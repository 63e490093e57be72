use crate::{Bytes, Code, Refusal, chain::Authority};
use ids::Environment;
use release::Manifest;
use serde::{Deserialize, Serialize};
use token::PublicKey;

/// Longest policy in bytes of JSON.
pub const MAX_POLICY: usize = 1024 * 1024;
/// Most releases in a policy.
pub const MAX_RELEASES: usize = 32;
const FORMAT: &str = "azote-attest-policy/1";

/// Which hosts are good: whose authority certifies them, and which releases they may run. Made from signed release
/// manifests; it is as trustworthy as where it was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    format: String,
    /// What hosts, releases and configurations must be made for.
    pub environment: Environment,
    /// Certificate (PEM) of the authority that certifies hosts and attestation keys.
    pub authority: String,
    /// The key that signs releases and configurations.
    pub root_key: PublicKey,
    /// Signed manifests of the releases that are good.
    pub releases: Vec<Bytes>,
    /// Whether every release that the root key has signed is good too, if it is not older than all of these.
    pub or_later: bool,
    /// The least number of a configuration.
    pub configuration: u64,
}

/// What of a release can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its security version.
    pub svn: u32,
    /// Its version: numbers with dots between them.
    pub version: String,
}

impl Version {
    /// Whether neither the security version nor the version is older than the other's. A version that is not
    /// made of numbers is only ever the same.
    pub fn reaches(&self, other: &Self) -> bool {
        let numbers =
            |text: &str| text.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
        let (mine, theirs) = (numbers(&self.version), numbers(&other.version));
        let newer = mine.zip(theirs).is_some_and(|(mine, theirs)| mine >= theirs);
        self.svn >= other.svn && (newer || self.version == other.version)
    }
}

/// A policy whose parts have been checked against each other.
pub(crate) struct Checked {
    pub(crate) authority: Authority,
    pub(crate) releases: Vec<Version>,
}

impl Policy {
    /// A policy from signed manifests. Refuses none, manifests of another environment, and those that the root key
    /// has not signed.
    pub fn new(
        environment: Environment,
        authority: String,
        root_key: PublicKey,
        releases: Vec<Vec<u8>>,
        or_later: bool,
        configuration: u64,
    ) -> Result<Self, Refusal> {
        let releases = releases.into_iter().map(Bytes).collect();
        let format = FORMAT.to_owned();
        let policy = Self { format, environment, authority, root_key, releases, or_later, configuration };
        policy.check().map(|_| policy)
    }

    /// Reads a policy file.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        if json.trim_ascii().is_empty() {
            return Err(Code::PolicyEmpty.into());
        }
        let policy = Some(json).filter(|json| json.len() <= MAX_POLICY);
        let policy: Option<Self> = policy.and_then(|json| serde_json::from_slice(json).ok());
        let policy = policy.filter(|policy| policy.format == FORMAT).ok_or(Code::PolicyMalformed)?;
        policy.check().map(|_| policy)
    }

    /// As a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The least of its releases: what a grant can demand.
    pub fn least(&self) -> Result<Version, Refusal> {
        let releases = self.check()?.releases;
        let least = releases.iter().find(|one| releases.iter().all(|other| other.reaches(one)));
        least.or(releases.first()).cloned().ok_or(Code::PolicyEmpty.into())
    }

    pub(crate) fn check(&self) -> Result<Checked, Refusal> {
        if self.releases.is_empty() {
            return Err(Code::PolicyEmpty.into());
        }
        let authority =
            Authority::read(&self.authority).ok_or_else(|| Code::PolicyMalformed.at("authority"))?;
        let version = |manifest: &Bytes| {
            let manifest = Manifest::open(&manifest.0, &self.root_key)
                .map_err(|_| Code::PolicyMalformed.at("release manifest"))?;
            if manifest.environment != self.environment {
                return Err(Code::Environment.at("release manifest"));
            }
            Ok(Version { svn: manifest.svn, version: manifest.version })
        };
        if self.releases.len() > MAX_RELEASES {
            return Err(Code::PolicyMalformed.at("releases"));
        }
        let releases = self.releases.iter().map(version).collect::<Result<_, _>>()?;
        Ok(Checked { authority, releases })
    }
}
