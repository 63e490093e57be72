//! What a change of the configuration newly allows, in words. Found by deciding everything twice: each member
//! (one for all that are in the same groups) × each operation × each kind of resource × each fleet × each
//! context of `corners`. Over contexts that no corner stands for it says nothing: the proofs do.

use crate::{
    Action, Ask, HostFacts, Quota, Rights,
    corners::{Corner, corners},
};
use ids::{HostId, Identity, InstanceId, Name, VolumeId};
use operations::{Kind, Operation, Resource};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Which way something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It allows what was not allowed.
    Wider,
    /// It no longer allows what was allowed.
    Narrower,
    /// The text changed.
    Text,
}

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Which way.
    pub direction: Direction,
    /// A sentence.
    pub what: String,
}

/// What `new` allows and `old` does not, and the reverse; then what else is different.
pub fn changes(old: &Rights, new: &Rights) -> Vec<Change> {
    let mut found = BTreeSet::new();
    let corners = corners(old, new);
    for (who, words) in subjects(old, new) {
        for operation in Operation::ALL {
            let has = |rights: &Rights| rights.may_have(&who, Action::Host(*operation));
            if !has(old) && !has(new) {
                continue;
            }
            for fleet in fleets(old, new) {
                for kind in operation.kinds() {
                    let allowed =
                        |rights: &Rights| allowed(rights, &who, *operation, *kind, &fleet, &corners);
                    let what = format!("{words} {{may}} {operation} on any {kind} of fleet {fleet}");
                    compare(&what, &allowed(old), &allowed(new), corners.len(), &mut found);
                }
            }
        }
        let reads = |rights: &Rights| rights.decide_reader(&who).is_ok();
        let what = format!("{words} {{may}} read the audit log");
        say(reads(old), reads(new), &what, &mut found);
    }
    quotas(old, new, &mut found);
    bounds(old, new, &mut found);
    texts(old, new, &mut found);
    found.into_iter().collect()
}

/// One member for all that are in the same groups before and after, and who they all are.
fn subjects(old: &Rights, new: &Rights) -> Vec<(Identity, String)> {
    let mut alike: BTreeMap<_, Vec<&Identity>> = BTreeMap::new();
    for who in old.members.keys().chain(new.members.keys()).collect::<BTreeSet<_>>() {
        let groups = |rights: &Rights| rights.members.get(who).map(|m| (m.caller, m.groups.clone()));
        alike.entry((groups(old), groups(new))).or_default().push(who);
    }
    let all = alike.into_values().filter_map(|people| {
        let (first, rest) = people.split_first()?;
        let more = if rest.is_empty() { String::new() } else { format!(" and {} alike", rest.len()) };
        Some(((*first).clone(), format!("{first}{more}")))
    });
    all.collect()
}

fn fleets(old: &Rights, new: &Rights) -> BTreeSet<Name> {
    old.groups.fleets.iter().chain(&new.groups.fleets).map(|fleet| fleet.name.clone()).collect()
}

/// The corners in which it is allowed.
fn allowed<'a>(
    rights: &Rights,
    who: &Identity,
    operation: Operation,
    kind: Kind,
    fleet: &Name,
    corners: &'a [Corner],
) -> BTreeSet<&'a Corner> {
    let Some(fleet) = rights.groups.fleet(fleet.as_str()) else { return BTreeSet::new() };
    let audience = HostId::from_random(0);
    let resource = match kind {
        Kind::Host => Resource::Host(audience.clone()),
        Kind::Volume => Resource::Volume(VolumeId::from_random(0)),
        Kind::Instance => Resource::Instance(InstanceId::from_random(0)),
    };
    let is_allowed = |corner: &&Corner| {
        let host = HostFacts {
            fleet: fleet.name.clone(),
            environment: fleet.environment,
            attestation: corner.attestation,
            drained: corner.drained,
        };
        let ask = Ask {
            subject: who,
            operations: &[operation],
            resources: std::slice::from_ref(&resource),
            audience: &audience,
            host: &host,
            now: corner.now,
            ticket: corner.ticket.as_deref(),
        };
        rights.decide(&ask).is_ok()
    };
    corners.iter().filter(is_allowed).collect()
}

fn compare(
    what: &str,
    old: &BTreeSet<&Corner>,
    new: &BTreeSet<&Corner>,
    all: usize,
    found: &mut BTreeSet<Change>,
) {
    let more: BTreeSet<_> = new.difference(old).copied().collect();
    let less: BTreeSet<_> = old.difference(new).copied().collect();
    for (direction, set, may) in
        [(Direction::Wider, more, "may now"), (Direction::Narrower, less, "may no longer")]
    {
        if !set.is_empty() {
            let what = what.replace("{may}", may) + &conditions(&set, all);
            found.insert(Change { direction, what });
        }
    }
}

/// Under which conditions, if not under all.
fn conditions(set: &BTreeSet<&Corner>, all: usize) -> String {
    if set.len() == all {
        return String::new();
    }
    let example = set.first().map(|corner| corner.words().join(", ")).unwrap_or_default();
    format!(" in {} of {all} contexts, such as: {example}", set.len())
}

fn say(old: bool, new: bool, what: &str, found: &mut BTreeSet<Change>) {
    let (direction, may) = match (old, new) {
        (false, true) => (Direction::Wider, "may now"),
        (true, false) => (Direction::Narrower, "may no longer"),
        _ => return,
    };
    found.insert(Change { direction, what: what.replace("{may}", may) });
}

fn quotas(old: &Rights, new: &Rights, found: &mut BTreeSet<Change>) {
    let by_name = |rights: &Rights| -> BTreeMap<Name, Quota> {
        rights.quotas.quotas.iter().map(|quota| (quota.name.clone(), quota.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (direction, what) = match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(new)) if new.within(old) => {
                (Direction::Narrower, format!("{old} becomes {new}"))
            }
            (Some(old), Some(new)) => (Direction::Wider, format!("{old} becomes {new}")),
            (Some(old), None) => (Direction::Wider, format!("{old} no longer counts")),
            (None, Some(new)) => (Direction::Narrower, format!("{new} counts")),
            (None, None) => continue,
        };
        found.insert(Change { direction, what: format!("quota {name}: {what}") });
    }
}

fn bounds(old: &Rights, new: &Rights, found: &mut BTreeSet<Change>) {
    let (o, n) = (old.quotas.token, new.quotas.token);
    let (oh, nh) = (old.quotas.host, new.quotas.host);
    for (what, old, new, wider) in [
        ("longest life of a token in seconds", o.longest_seconds, n.longest_seconds, true),
        ("default life of a token in seconds", o.default_seconds, n.default_seconds, true),
        ("shortest life of a token in seconds", o.shortest_seconds, n.shortest_seconds, false),
        ("calls per token", u64::from(o.uses), u64::from(n.uses), true),
        ("sensitive operations of one kind per host and window", oh.sensitive, nh.sensitive, true),
        ("window of a host's own bound in seconds", oh.window_seconds, nh.window_seconds, false),
    ] {
        if old != new {
            let direction = if (new > old) == wider { Direction::Wider } else { Direction::Narrower };
            found.insert(Change { direction, what: format!("{what}: {old} becomes {new}") });
        }
    }
}

fn texts(old: &Rights, new: &Rights, found: &mut BTreeSet<Change>) {
    let by_id = |rights: &Rights| -> BTreeMap<String, String> {
        rights.policies().policies().map(|policy| (policy.id().to_string(), policy.to_string())).collect()
    };
    let (before, after) = (by_id(old), by_id(new));
    for id in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let what = match (before.get(id), after.get(id)) {
            (old, new) if old == new => continue,
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "reads otherwise",
        };
        found.insert(Change { direction: Direction::Text, what: format!("policy {id} {what}") });
    }
}
