//! Policy sets that the proofs speak of.

use crate::report::Failure;
use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use rights::Rights;

/// Adds sets up. Their ids must differ.
pub(crate) fn union<'a>(sets: impl IntoIterator<Item = &'a PolicySet>) -> Result<PolicySet, Failure> {
    of(sets.into_iter().flat_map(PolicySet::policies).cloned())
}

/// A set of these policies.
pub(crate) fn of(policies: impl IntoIterator<Item = Policy>) -> Result<PolicySet, Failure> {
    PolicySet::from_policies(policies).map_err(|e| e.to_string())
}

/// What is decided with: the policies and the floor.
pub(crate) fn whole(rights: &Rights) -> Result<PolicySet, Failure> {
    union([rights.policies(), &rights::floor()])
}

/// Those that permit, or those that forbid.
pub(crate) fn only(set: &PolicySet, effect: Effect) -> Result<PolicySet, Failure> {
    of(set.policies().filter(|policy| policy.effect() == effect).cloned())
}

/// All but one.
pub(crate) fn without(set: &PolicySet, id: &PolicyId) -> Result<PolicySet, Failure> {
    of(set.policies().filter(|policy| policy.id() != id).cloned())
}

/// One policy, or several, that no other set has under the same id.
pub(crate) fn parse(prefix: &str, text: &str) -> Result<PolicySet, Failure> {
    let set: PolicySet = text.parse().map_err(|e| format!("{prefix}: {e}"))?;
    of(set.policies().map(|policy| policy.new_id(PolicyId::new(format!("{prefix}-{}", policy.id())))))
}

/// The set and a planted policy.
pub(crate) fn plant(set: &PolicySet, text: &str) -> Result<PolicySet, Failure> {
    union([set, &parse("planted", text)?])
}

/// Exactly what the tables of `groups.toml` say, on anything; or with `fleets`, on what the configuration knows.
pub(crate) fn tables(rights: &Rights, fleets: bool) -> Result<PolicySet, Failure> {
    let groups = rights.groups();
    let mut text = String::new();
    for group in groups.groups.iter().filter(|group| !group.operations.is_empty()) {
        let actions: Vec<_> = group.operations.iter().map(|action| format!("Action::\"{action}\"")).collect();
        let known = groups.fleets.iter().map(|fleet| format!("resource in Fleet::\"{}\"", fleet.name));
        let known: Vec<_> = known.chain(["resource == AuditLog::\"audit\"".to_owned()]).collect();
        let where_to = if fleets { known.join(" || ") } else { "true".to_owned() };
        text += &format!(
            "permit (principal in Group::\"{}\", action in [{}], resource) when {{ {where_to} }};\n",
            group.name,
            actions.join(", ")
        );
    }
    parse("table", &text)
}
