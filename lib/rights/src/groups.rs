//! `groups.toml`: who belongs to which group, and which sets of resources there are.

use crate::RightsError;
use ids::{Identity, Name};
use operations::{Caller, Operation};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

const FILE: &str = "groups.toml";
/// Most members of all groups together.
const MAX_MEMBERS: usize = 4096;
/// Most groups, and most fleets.
const MAX_GROUPS: usize = 128;

/// Something that a policy can allow: an operation on a host, or reading the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Action {
    /// An operation of the hosts' API.
    Host(Operation),
    /// Reading the audit service's log.
    ReadAuditLog,
}

impl Action {
    /// The name of [`Action::ReadAuditLog`].
    pub const READ_AUDIT_LOG: &str = "ReadAuditLog";

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Operation::ALL.iter().copied().map(Self::Host).chain([Self::ReadAuditLog])
    }

    /// As policies name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host(operation) => operation.name(),
            Self::ReadAuditLog => Self::READ_AUDIT_LOG,
        }
    }

    /// For whom it is made.
    pub const fn callers(self) -> &'static [Caller] {
        match self {
            Self::Host(operation) => operation.callers(),
            Self::ReadAuditLog => &[Caller::Operator, Caller::Auditor],
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::all().find(|action| action.name() == text).ok_or_else(|| format!("no operation `{text}`"))
    }
}

impl TryFrom<String> for Action {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Action> for String {
    fn from(action: Action) -> String {
        action.name().to_owned()
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$word_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As policies name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// What a fleet is for.
    Environment {
        /// A developer's machine.
        Lab = "lab",
        /// The last place before production.
        Staging = "staging",
        /// Customers.
        Production = "production",
    }
}

words! {
    /// What the boot check of a host said last.
    Attestation {
        /// Its measurements are known good.
        Passed = "passed",
        /// They are not.
        Failed = "failed",
        /// Nobody asked yet.
        Unknown = "unknown",
    }
}

/// What is known of a host when somebody asks for a token for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// The fleet it belongs to.
    pub fleet: Name,
    /// What that fleet is for.
    pub environment: Environment,
    /// What its boot check said last.
    pub attestation: Attestation,
    /// Whether it takes no new instance.
    #[serde(default)]
    pub drained: bool,
}

/// `groups.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The sets of resources.
    #[serde(rename = "fleet")]
    pub fleets: Vec<Fleet>,
    /// The groups.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
}

/// A set of hosts, with the volumes and instances on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// As policies and the inventory name it.
    pub name: Name,
    /// What it is for.
    pub environment: Environment,
    /// The reason.
    pub why: String,
}

/// People or services with the same work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// As policies name it.
    pub name: Name,
    /// What kind of caller its members are; nobody is of two kinds.
    pub caller: Caller,
    /// Exactly what policies allow it: no more, and nothing for nothing.
    pub operations: BTreeSet<Action>,
    /// Who belongs to it.
    pub members: BTreeSet<Identity>,
    /// The reason.
    pub why: String,
}

/// One member, seen from itself.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) caller: Caller,
    pub(crate) groups: BTreeSet<Name>,
}

impl Groups {
    pub(crate) fn parse(text: &str) -> Result<Self, RightsError> {
        let groups: Self = toml::from_str(text).map_err(|e| RightsError::Form(FILE, e.to_string()))?;
        groups.check().map_err(|why| RightsError::Name(FILE, why))?;
        Ok(groups)
    }

    fn check(&self) -> Result<(), String> {
        let members: usize = self.groups.iter().map(|group| group.members.len()).sum();
        if members > MAX_MEMBERS || self.groups.len() > MAX_GROUPS || self.fleets.len() > MAX_GROUPS {
            return Err(format!(
                "want at most {MAX_GROUPS} groups, {MAX_GROUPS} fleets, {MAX_MEMBERS} members"
            ));
        }
        once("fleet", self.fleets.iter().map(|fleet| (&fleet.name, &fleet.why)))?;
        once("group", self.groups.iter().map(|group| (&group.name, &group.why)))?;
        for group in &self.groups {
            if let Some(action) = group.operations.iter().find(|a| !a.callers().contains(&group.caller)) {
                return Err(format!(
                    "group {}: {action} is not made for {} callers",
                    group.name, group.caller
                ));
            }
            if let Some(member) = group.members.iter().find(|member| !fits(group.caller, member)) {
                return Err(format!("group {}: {member} cannot be of kind {}", group.name, group.caller));
            }
        }
        self.by_member().map(drop)
    }

    /// Every member with its kind and groups.
    pub(crate) fn by_member(&self) -> Result<BTreeMap<Identity, Member>, String> {
        let mut members: BTreeMap<Identity, Member> = BTreeMap::new();
        for group in &self.groups {
            for identity in &group.members {
                let new = Member { caller: group.caller, groups: BTreeSet::new() };
                let member = members.entry(identity.clone()).or_insert(new);
                if member.caller != group.caller {
                    return Err(format!(
                        "{identity} is of two kinds: {} and {}",
                        member.caller, group.caller
                    ));
                }
                member.groups.insert(group.name.clone());
            }
        }
        Ok(members)
    }

    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name.as_str() == name)
    }

    pub(crate) fn fleet(&self, name: &str) -> Option<&Fleet> {
        self.fleets.iter().find(|fleet| fleet.name.as_str() == name)
    }
}

fn once<'a>(what: &str, named: impl Iterator<Item = (&'a Name, &'a String)>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, why) in named {
        let name = name.as_str();
        if !seen.insert(name) {
            return Err(format!("two {what}s are called {name}"));
        }
        if why.trim().is_empty() {
            return Err(format!("{what} {name} does not say why"));
        }
    }
    Ok(())
}

/// Whether such an identity can be that kind of caller.
fn fits(caller: Caller, identity: &Identity) -> bool {
    match caller {
        Caller::Operator => matches!(identity, Identity::Operator(_)),
        Caller::ControlPlane | Caller::Pipeline => matches!(identity, Identity::Service(_)),
        Caller::Auditor => matches!(identity, Identity::Operator(_) | Identity::Service(_)),
    }
}
