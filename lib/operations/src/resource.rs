//! What operations are done to.

use crate::{BadName, Kind};
use ids::{HostId, InstanceId, VolumeId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One thing on a host that a token can name: `host/h-…`, `volume/vol-…`, `instance/i-…`. There are no
/// wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Resource {
    /// A host.
    Host(HostId),
    /// A volume.
    Volume(VolumeId),
    /// An instance.
    Instance(InstanceId),
}

impl Resource {
    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Host(_) => Kind::Host,
            Self::Volume(_) => Kind::Volume,
            Self::Instance(_) => Kind::Instance,
        }
    }

    /// Its id, without its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Host(id) => id.as_str(),
            Self::Volume(id) => id.as_str(),
            Self::Instance(id) => id.as_str(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.id())
    }
}

impl FromStr for Resource {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = BadName("a resource: want host/h-…, volume/vol-… or instance/i-…");
        let known = match text.split_once('/') {
            Some(("host", id)) => id.parse().ok().map(Self::Host),
            Some(("volume", id)) => id.parse().ok().map(Self::Volume),
            Some(("instance", id)) => id.parse().ok().map(Self::Instance),
            _ => None,
        };
        known.ok_or(bad)
    }
}

as_text!(Resource);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_read_back_as_written_and_near_misses_are_refused() {
        for resource in [
            Resource::Host(HostId::from_random(1)),
            Resource::Volume(VolumeId::from_random(2)),
            Resource::Instance(InstanceId::from_random(3)),
        ] {
            assert_eq!(resource.to_string().parse(), Ok(resource));
        }
        let volume = VolumeId::from_random(2);
        for text in ["", "/", "host/", "host/*", &format!("host/{volume}"), &format!("Volume/{volume}")] {
            assert!(text.parse::<Resource>().is_err(), "{text}");
        }
    }
}
