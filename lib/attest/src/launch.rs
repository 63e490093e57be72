use crate::{Appraisal, Code, Hash, Refusal};
use ids::Environment;
use release::Manifest;
use serde::{Deserialize, Serialize};
use token::PublicKey;

/// What a refusal calls it.
const NAME: &str = "release manifest";

/// On which hosts something may start: those that measure as one of these releases, or as a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPolicy {
    /// What they must be made for.
    pub environment: Environment,
    /// The key that signs their releases.
    pub root_key: PublicKey,
    /// The releases, at least one.
    pub releases: Vec<Release>,
    /// Whether every release that the root key has signed is good too, if it is not older than one of these.
    pub or_later: bool,
}

/// A release, without its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// SHA-256 of its signed manifest.
    pub manifest: Hash,
    /// Which it is.
    pub version: Version,
}

/// What of a release can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its security version.
    pub svn: u32,
    /// For people: numbers with dots between them.
    pub name: String,
}

impl Version {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self { svn: manifest.svn, name: manifest.version.clone() }
    }

    /// Whether neither the security version nor the name is older than the other's. A name that is not made of
    /// numbers is only ever the same.
    pub fn reaches(&self, other: &Self) -> bool {
        let numbers =
            |text: &str| text.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
        let newer =
            numbers(&self.name).zip(numbers(&other.name)).is_some_and(|(mine, theirs)| mine >= theirs);
        self.svn >= other.svn && (newer || self.name == other.name)
    }
}

impl LaunchPolicy {
    /// Whether a host that was appraised is one of those. The root key and the environment must be those of the
    /// policy that it was appraised by.
    pub fn admits(&self, appraisal: &Appraisal) -> Result<(), Refusal> {
        if appraisal.environment != self.environment {
            return Err(Code::Environment.at(NAME));
        }
        if appraisal.root_key != self.root_key {
            return Err(Code::Release.at(NAME));
        }
        self.takes(&appraisal.manifest, &appraisal.release)
    }

    pub(crate) fn takes(&self, manifest: &Hash, version: &Version) -> Result<(), Refusal> {
        if self.releases.is_empty() {
            Err(Code::PolicyEmpty.into())
        } else if self.releases.iter().any(|release| release.manifest == *manifest) {
            Ok(())
        } else if !self.releases.iter().any(|release| version.reaches(&release.version)) {
            Err(Code::Rollback.at(NAME))
        } else if self.or_later {
            Ok(())
        } else {
            Err(Code::Release.at(NAME))
        }
    }
}
