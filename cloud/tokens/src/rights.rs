use crate::client::TokenRequest;
use ids::Identity;
use serde::Deserialize;
use token::{Api, Resource};

/// The rights configuration (`policies/rights.toml`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// Bounds for everybody.
    pub lifetime: Lifetime,
    /// One entry per subject.
    #[serde(rename = "right")]
    pub rights: Vec<Right>,
}

/// Lives of tokens in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// If the caller asks for none.
    pub default: u64,
    /// The longest.
    pub maximum: u64,
}

/// What one subject may ask for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// Who.
    pub subject: Identity,
    /// Which operations.
    pub apis: Vec<Api>,
    /// On which kinds of resources.
    pub resources: Vec<Kind>,
    /// For how long at most, if shorter than [`Lifetime::maximum`].
    pub maximum: Option<u64>,
    /// The reason.
    pub why: String,
}

/// A kind of [`Resource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Kind {
    Host,
    Volume,
    Instance,
}

impl Kind {
    fn of(resource: &Resource) -> Self {
        match resource {
            Resource::Host(_) => Self::Host,
            Resource::Volume(_) => Self::Volume,
            Resource::Instance(_) => Self::Instance,
        }
    }
}

/// Why a rights configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// Not of this form.
    #[error("the rights configuration: {0}")]
    Form(#[from] toml::de::Error),
    /// Two entries.
    #[error("the rights configuration has two entries for {0}: make them one")]
    Twice(Identity),
    /// No reason.
    #[error("the rights configuration does not say why {0} has rights")]
    Why(Identity),
    /// Bounds that make no sense.
    #[error("the rights configuration: want 1 <= default <= maximum <= {}", token::MAX_LIFETIME)]
    Lifetime,
}

/// Why no token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not named in the configuration.
    #[error("you have no rights on hosts: the rights configuration does not name you")]
    Subject,
    /// An operation beyond the caller's.
    #[error("you may not call every API that you ask for: ask for fewer, or have the rights changed")]
    Api,
    /// A kind of resource beyond the caller's, or another host than the audience.
    #[error("you have no right to every resource that you ask for, or one is another host than the audience")]
    Resource,
    /// Too long, or zero.
    #[error("ask for a life of 1 second or more, at most what the rights configuration gives you")]
    Lifetime,
    /// No API, too many resources, or something named twice.
    #[error("want 1 or more different APIs and at most {} different resources", token::MAX_RESOURCES)]
    Malformed,
}

impl Refusal {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Subject => "rights.subject",
            Self::Api => "rights.api",
            Self::Resource => "rights.resource",
            Self::Lifetime => "rights.lifetime",
            Self::Malformed => "rights.malformed",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        if self == Self::Malformed { 400 } else { 403 }
    }
}

impl Rights {
    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, RightsError> {
        let rights: Self = toml::from_str(text)?;
        let Lifetime { default, maximum } = rights.lifetime;
        if default == 0 || default > maximum || maximum > token::MAX_LIFETIME {
            return Err(RightsError::Lifetime);
        }
        for (n, right) in rights.rights.iter().enumerate() {
            if rights.rights.iter().take(n).any(|other| other.subject == right.subject) {
                return Err(RightsError::Twice(right.subject.clone()));
            }
            if right.why.trim().is_empty() {
                return Err(RightsError::Why(right.subject.clone()));
            }
        }
        Ok(rights)
    }

    /// Decides on a request by `subject`; gives the life of the token in seconds.
    pub fn decide(&self, subject: &Identity, request: &TokenRequest) -> Result<u64, Refusal> {
        let right = self.rights.iter().find(|right| right.subject == *subject).ok_or(Refusal::Subject)?;
        if !request.apis.iter().all(|api| right.apis.contains(api)) {
            return Err(Refusal::Api);
        }
        let allowed = |resource: &Resource| {
            let elsewhere = matches!(resource, Resource::Host(host) if *host != request.audience);
            right.resources.contains(&Kind::of(resource)) && !elsewhere
        };
        if !request.resources.iter().all(allowed) {
            return Err(Refusal::Resource);
        }
        let maximum = right.maximum.unwrap_or(u64::MAX).min(self.lifetime.maximum);
        let lifetime = request.lifetime_seconds.unwrap_or(self.lifetime.default.min(maximum));
        if (1..=maximum).contains(&lifetime) { Ok(lifetime) } else { Err(Refusal::Lifetime) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::{HostId, VolumeId};
    use token::PublicKey;

    const RIGHTS: &str = include_str!("../../../policies/rights.toml");

    fn request(apis: &[Api], resources: &[Resource], lifetime_seconds: Option<u64>) -> TokenRequest {
        TokenRequest {
            apis: apis.to_vec(),
            resources: resources.to_vec(),
            audience: HostId::from_random(1),
            lifetime_seconds,
            uses: None,
            ticket: None,
            public_key: PublicKey([0; 32]),
        }
    }

    #[test]
    fn the_shipped_configuration_gives_operators_nothing_of_tenants() {
        let rights = Rights::parse(RIGHTS).unwrap();
        let operators = rights.rights.iter().filter(|right| matches!(right.subject, Identity::Operator(_)));
        for right in operators {
            assert_eq!(right.resources, [Kind::Host]);
            assert!(right.apis.iter().all(|api| matches!(api, Api::HostStatus | Api::ReadLog)), "{right:?}");
        }
        assert!(rights.rights.iter().all(|right| !matches!(right.subject, Identity::Tenant(_))));
    }

    #[test]
    fn every_request_beyond_the_rights_is_refused_with_its_code() {
        let rights =
            Rights::parse(&RIGHTS.replace("resources = [\"host\"]", "resources = [\"host\"]\nmaximum = 100"));
        let rights = rights.unwrap();
        let alice = "azote:operator/alice".parse().unwrap();
        let here = [Resource::Host(HostId::from_random(1))];
        let there = [Resource::Host(HostId::from_random(2))];
        let volume = [Resource::Volume(VolumeId::from_random(1))];
        let decide = |request| rights.decide(&alice, &request);
        assert_eq!(decide(request(&[Api::ReadLog], &here, None)), Ok(100), "the default within her maximum");
        assert_eq!(decide(request(&[Api::ReadLog], &here, Some(1))), Ok(1));
        assert_eq!(decide(request(&[Api::ReadLog, Api::StopInstance], &here, None)), Err(Refusal::Api));
        assert_eq!(decide(request(&[Api::ReadLog], &volume, None)), Err(Refusal::Resource));
        assert_eq!(decide(request(&[Api::ReadLog], &there, None)), Err(Refusal::Resource));
        assert_eq!(decide(request(&[Api::ReadLog], &here, Some(0))), Err(Refusal::Lifetime));
        assert_eq!(decide(request(&[Api::ReadLog], &here, Some(101))), Err(Refusal::Lifetime));
        for stranger in ["azote:operator/mallory", "azote:tenant/alice", "azote:host/h-0123456789abcdef0"] {
            let refused =
                rights.decide(&stranger.parse().unwrap(), &request(&[Api::HostStatus], &here, None));
            assert_eq!(refused, Err(Refusal::Subject));
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        for (from, to) in [
            ("why = \"She", "why = \"\"\nextra = \"She"),
            ("\"ReadLog\"]", "\"ReadLog\", \"ReadMemory\"]"),
            ("[\"host\"]", "[\"*\"]"),
            ("azote:operator/alice", "azote:operator/*"),
            ("azote:operator/alice", "azote:service/control-plane"),
            ("maximum = 3600", "maximum = 86401"),
            ("default = 900", "default = 0"),
            ("default = 900", "default = 3601"),
        ] {
            assert!(RIGHTS.contains(from), "{from}");
            assert!(Rights::parse(&RIGHTS.replace(from, to)).is_err(), "{from} -> {to}");
        }
        let blank = RIGHTS.replace(
            "why = \"It acts for tenants: it attaches their volumes and starts and stops their instances.\"",
            "why = \" \"",
        );
        assert!(matches!(Rights::parse(&blank), Err(RightsError::Why(_))));
    }
}
