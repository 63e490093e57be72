use crate::{Bytes, Code, Hash, LaunchPolicy, Refusal, Release, Version, chain::Authority, verify::sha256};
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

/// A policy whose parts have been checked against each other.
pub(crate) struct Checked {
    pub(crate) authority: Authority,
    pub(crate) launch: LaunchPolicy,
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

    /// What of it another verifier, who has the authority and the root key too, can hold a host to.
    pub fn launch(&self) -> Result<LaunchPolicy, Refusal> {
        Ok(self.check()?.launch)
    }

    pub(crate) fn check(&self) -> Result<Checked, Refusal> {
        if self.releases.is_empty() {
            return Err(Code::PolicyEmpty.into());
        }
        let authority =
            Authority::read(&self.authority).ok_or_else(|| Code::PolicyMalformed.at("authority"))?;
        let release = |signed: &Bytes| {
            let manifest = Manifest::open(&signed.0, &self.root_key)
                .map_err(|_| Code::PolicyMalformed.at("release manifest"))?;
            if manifest.environment != self.environment {
                return Err(Code::Environment.at("release manifest"));
            }
            Ok(Release { manifest: Hash(sha256(&signed.0)), version: Version::of(&manifest) })
        };
        if self.releases.len() > MAX_RELEASES {
            return Err(Code::PolicyMalformed.at("releases"));
        }
        let releases = self.releases.iter().map(release).collect::<Result<_, _>>()?;
        let Self { environment, root_key, or_later, .. } = *self;
        Ok(Checked { authority, launch: LaunchPolicy { environment, root_key, releases, or_later } })
    }
}
