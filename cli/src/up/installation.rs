//! What an installation is.

use super::random;
use crate::{
    authority,
    failure::{Doing, Failure},
    place::{INSTALLATION, Place},
};
use ids::{Environment, HostId};
use pki::{Authority, Lives, Terms};
use serde::{Deserialize, Serialize};
use std::{fs, io, time::Duration};

/// What stays the same from one `up` to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Installation {
    /// This host.
    pub(crate) host: HostId,
    /// The name of the importer's card; no host has it.
    pub(crate) importer: HostId,
    /// What it is for. Nothing in it ever passes into another one.
    #[serde(default = "non_production")]
    pub(crate) environment: Environment,
    /// How long certificates of hosts and services live, in seconds, if not as long as they usually do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_life: Option<u64>,
}

fn non_production() -> Environment {
    Environment::NonProduction
}

impl Installation {
    /// The environment's authority.
    pub(crate) fn authority(&self, place: &Place) -> Result<Authority, Failure> {
        Ok(Authority::open_with(&place.path("pki"), self.environment, self.lives())?)
    }

    fn lives(&self) -> Lives {
        self.certificate_life.map(Duration::from_secs).map_or_else(Lives::default, Lives::of)
    }

    /// For how many seconds an appraisal of a host is good: four times the time to the next one.
    pub(super) fn appraised_for(&self) -> u64 {
        4 * Terms::new(self.lives().certificate.as_secs(), authority::EVERY.as_secs()).pause()
    }

    /// Reads it.
    pub(crate) fn read(place: &Place) -> Result<Self, Failure> {
        let path = place.path(INSTALLATION);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("nothing was ever up in {}: `azote up` first", place.root().display());
                return Err(Failure::Advice("state.none", message));
            }
            read => read.doing(path.display())?,
        };
        serde_json::from_slice(&text).map_err(|e| {
            Failure::State(format!("{} is damaged ({e}): put it back from a copy", path.display()))
        })
    }

    pub(super) fn read_or_make(
        place: &Place,
        environment: Option<Environment>,
        certificate_life: Option<u64>,
    ) -> Result<Self, Failure> {
        let path = place.path(INSTALLATION);
        if !path.exists() {
            let made = Self {
                host: HostId::from_random(random()?),
                importer: HostId::from_random(random()?),
                environment: environment.unwrap_or_else(non_production),
                certificate_life,
            };
            service::write_atomic(&path, &serde_json::to_vec_pretty(&made).map_err(Failure::state)?)
                .doing(path.display())?;
        }
        let installation = Self::read(place)?;
        let made_for = installation.environment;
        if environment.is_some_and(|asked| asked != made_for) {
            let message =
                format!("{} is for {made_for} and stays so: give another --state folder", path.display());
            return Err(Failure::Advice("state.environment", message));
        }
        Ok(installation)
    }
}
