//! `quotas.toml`: how much in how long, and how long a token lives.

use crate::{Action, Groups, RightsError};
use ids::{Identity, Name};
use operations::{Effect, Operation};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

const FILE: &str = "quotas.toml";
/// Bounds of a window in seconds: a minute, thirty days.
const WINDOW: std::ops::RangeInclusive<u64> = 60..=30 * 24 * 3600;
/// Most resources that a quota can allow in a window.
const MAX_LIMIT: u64 = 1_000_000;
/// Most uses of one token (`azote:uses`).
const MAX_USES: u32 = 1000;
/// Most quotas.
const MAX_QUOTAS: usize = 256;

/// `quotas.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Bounds of every token.
    pub token: TokenBounds,
    /// Bounds that every host keeps by itself.
    pub host: HostBounds,
    /// The quotas.
    #[serde(rename = "quota")]
    pub quotas: Vec<Quota>,
}

/// Bounds of every token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBounds {
    /// Shortest life in seconds that can be asked for.
    pub shortest_seconds: u64,
    /// Life in seconds if none is asked for.
    pub default_seconds: u64,
    /// Longest life in seconds.
    pub longest_seconds: u64,
    /// Calls that a token is good for; one that names a sensitive operation is good for one call.
    pub uses: u32,
}

/// What a host does at most, whoever asks. Hosts have it compiled in and count by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostBounds {
    /// Of each sensitive operation in one window.
    pub sensitive: u64,
    /// The time window in seconds.
    pub window_seconds: u64,
}

/// How many resources a group may affect in a time window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Its name in logs.
    pub name: Name,
    /// Whose.
    pub group: Name,
    /// Of which operations.
    pub operations: BTreeSet<Operation>,
    /// The time window in seconds.
    pub window_seconds: u64,
    /// Most resources by one member in a window.
    pub member: u64,
    /// Most resources by all members together in a window.
    pub together: u64,
    /// Most resources of one fleet, by all members together, in a window.
    pub fleet: u64,
}

/// On whose account a quota is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// One member's.
    Member(Identity),
    /// All members' of the group.
    Group(Name),
    /// The fleet's.
    Fleet(Name),
}

/// One account that a token is counted on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuotaKey {
    /// The quota's name.
    pub quota: Name,
    /// On whose account.
    pub scope: Scope,
    /// Most resources in a window.
    pub limit: u64,
    /// The window in seconds.
    pub window: u64,
    /// Resources that this token affects.
    pub cost: u64,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(identity) => write!(f, "member/{identity}"),
            Self::Group(group) => write!(f, "group/{}", group.as_str()),
            Self::Fleet(fleet) => write!(f, "fleet/{}", fleet.as_str()),
        }
    }
}

/// The account's name, the same for every token that is counted on it.
impl fmt::Display for QuotaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.quota.as_str(), self.scope)
    }
}

impl Quotas {
    pub(crate) fn parse(text: &str, groups: &Groups) -> Result<Self, RightsError> {
        let quotas: Self = toml::from_str(text).map_err(|e| RightsError::Form(FILE, e.to_string()))?;
        quotas.check(groups).map_err(RightsError::Quota)?;
        Ok(quotas)
    }

    fn check(&self, groups: &Groups) -> Result<(), String> {
        let TokenBounds { shortest_seconds: shortest, default_seconds, longest_seconds: longest, uses } =
            self.token;
        let lives = [1, shortest, default_seconds, longest, token::MAX_LIFETIME];
        if !lives.is_sorted() {
            let most = token::MAX_LIFETIME;
            return Err(format!("want 1 <= shortest <= default <= longest <= {most} seconds"));
        }
        if !(1..=MAX_USES).contains(&uses) {
            return Err(format!("want 1 to {MAX_USES} uses"));
        }
        let HostBounds { sensitive, window_seconds } = self.host;
        if !WINDOW.contains(&window_seconds) || !(1..=MAX_LIMIT).contains(&sensitive) {
            return Err(format!("host: want 1 to {MAX_LIMIT} calls in a window of {WINDOW:?} seconds"));
        }
        if !(1..=MAX_LIMIT).contains(&self.host.sensitive) || !WINDOW.contains(&self.host.window_seconds) {
            return Err("host: want 1 or more, in a window of a minute to thirty days".to_owned());
        }
        if self.quotas.len() > MAX_QUOTAS {
            return Err(format!("want at most {MAX_QUOTAS} quotas"));
        }
        let mut names = BTreeSet::new();
        for quota in &self.quotas {
            let name = quota.name.as_str();
            if !names.insert(name) {
                return Err(format!("two quotas are called {name}"));
            }
            quota.check(groups).map_err(|why| format!("{name}: {why}"))?;
        }
        self.covers(groups)
    }

    /// Nothing that changes a host is without bound.
    fn covers(&self, groups: &Groups) -> Result<(), String> {
        for group in &groups.groups {
            for action in &group.operations {
                let Action::Host(operation) = action else { continue };
                let counted = self.of(&group.name, *operation).next().is_some();
                if operation.effect() == Effect::Change && !counted {
                    return Err(format!("group {} has {operation} without a quota", group.name.as_str()));
                }
            }
        }
        Ok(())
    }

    /// The quotas of a group that count an operation.
    pub(crate) fn of(&self, group: &Name, operation: Operation) -> impl Iterator<Item = &Quota> {
        self.quotas.iter().filter(move |q| q.group == *group && q.operations.contains(&operation))
    }
}

/// In words.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations: Vec<_> = self.operations.iter().map(|o| o.name()).collect();
        let Self { group, window_seconds, member, together, fleet, .. } = self;
        write!(
            f,
            "{member} by a member, {together} by {group}, {fleet} in a fleet, in {window_seconds} s ({})",
            operations.join(", ")
        )
    }
}

impl Quota {
    /// Whether it bounds no less than `other`.
    pub(crate) fn within(&self, other: &Self) -> bool {
        self.group == other.group
            && self.operations.is_superset(&other.operations)
            && self.window_seconds >= other.window_seconds
            && self.member <= other.member
            && self.together <= other.together
            && self.fleet <= other.fleet
    }

    fn check(&self, groups: &Groups) -> Result<(), String> {
        let group = groups.group(self.group.as_str()).ok_or("no such group")?;
        if self.operations.is_empty() {
            return Err("counts no operation".to_owned());
        }
        if let Some(other) = self.operations.iter().find(|o| !group.operations.contains(&Action::Host(**o))) {
            return Err(format!("the group does not have {other}"));
        }
        if !WINDOW.contains(&self.window_seconds) {
            return Err(format!("want a window of {} to {} seconds", WINDOW.start(), WINDOW.end()));
        }
        if ![1, self.member, self.together, MAX_LIMIT].is_sorted()
            || !(1..=self.together).contains(&self.fleet)
        {
            return Err(format!("want 1 <= member <= together <= {MAX_LIMIT} and 1 <= fleet <= together"));
        }
        Ok(())
    }

    /// The accounts that `subject` counts `cost` resources of `fleet` on.
    pub(crate) fn keys(&self, subject: &Identity, fleet: &Name, cost: u64) -> [QuotaKey; 3] {
        let key = |scope, limit| QuotaKey {
            quota: self.name.clone(),
            scope,
            limit,
            window: self.window_seconds,
            cost,
        };
        [
            key(Scope::Member(subject.clone()), self.member),
            key(Scope::Group(self.group.clone()), self.together),
            key(Scope::Fleet(fleet.clone()), self.fleet),
        ]
    }
}
