use crate::{BadId, HostId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Who somebody is in an environment, as its authority certifies it: `azote:host/h-…`,
/// `azote:service/kms`, `azote:tenant/acme`, `azote:importer/acme`, `azote:operator/alice`. Certificates carry it as a URI
/// (RFC 5280 §4.2.1.6), tokens as issuer and subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identity {
    /// The controller of a host.
    Host(HostId),
    /// A service of the control plane.
    Service(Name),
    /// A customer.
    Tenant(Name),
    /// The machine of the customer of this name on which its images are encrypted before they leave it. It is no host:
    /// it has no TPM, nobody attests it, and no instance runs there.
    Importer(Name),
    /// A person who keeps servers alive.
    Operator(Name),
}

/// The name of a service, tenant or operator: 1 to [`Name::MAX`] of `a-z 0-9 -`, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 48;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// Not one of the five kinds.
    #[error(
        "not an identity: want azote:host/…, azote:service/…, azote:tenant/…, azote:importer/… or azote:operator/…"
    )]
    Kind,
    /// The name is not well formed.
    #[error("not a name: want 1 to {} of a-z, 0-9 and -, starting with a letter", Name::MAX)]
    Name,
    /// The host is not well formed.
    #[error(transparent)]
    Host(#[from] BadId),
}

impl FromStr for Name {
    type Err = BadIdentity;
    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = text.len() <= Self::MAX
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(known);
        if good { Ok(Self(text.to_owned())) } else { Err(BadIdentity::Name) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadIdentity;
    fn try_from(text: String) -> Result<Self, BadIdentity> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;
    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let (kind, name) =
            text.strip_prefix("azote:").and_then(|rest| rest.split_once('/')).ok_or(BadIdentity::Kind)?;
        Ok(match kind {
            "host" => Self::Host(name.parse()?),
            "service" => Self::Service(name.parse()?),
            "tenant" => Self::Tenant(name.parse()?),
            "importer" => Self::Importer(name.parse()?),
            "operator" => Self::Operator(name.parse()?),
            _ => return Err(BadIdentity::Kind),
        })
    }
}

impl TryFrom<String> for Identity {
    type Error = BadIdentity;
    fn try_from(text: String) -> Result<Self, BadIdentity> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> String {
        identity.to_string()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Host(host) => ("host", host.as_str()),
            Self::Service(name) => ("service", name.as_str()),
            Self::Tenant(name) => ("tenant", name.as_str()),
            Self::Importer(name) => ("importer", name.as_str()),
            Self::Operator(name) => ("operator", name.as_str()),
        };
        write!(f, "azote:{kind}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_five_kinds_read_back_as_written() {
        for text in [
            "azote:host/h-0123456789abcdef0",
            "azote:service/control-plane",
            "azote:tenant/acme",
            "azote:importer/acme",
            "azote:operator/a",
        ] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "",
            "azote:",
            "azote:tenant",
            "azote:tenant/",
            "azote:tenant/Acme",
            "azote:tenant/1",
            "azote:tenant/a/b",
            "azote:tenant/a\n",
            "azote:host/acme",
            "azote:root/acme",
            "Azote:tenant/acme",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
        assert!(format!("azote:tenant/{}", "a".repeat(Name::MAX + 1)).parse::<Identity>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_never_changes_the_text(text in "(azote:(tenant|host)/)?.{0,60}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
