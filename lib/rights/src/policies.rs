//! `rights.cedar`: parsed, held to the rules of form, validated, and sliced by operation.

use crate::{
    Action, FLOOR, Groups, Quotas, RightsError, Sources,
    depth::is_shallow,
    floor,
    groups::Member,
    schema,
    sources::{MAX_FILE, sources},
};
use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, Schema, ValidationMode, Validator,
};
use ids::{Identity, Name};
use std::collections::{BTreeMap, BTreeSet};

const FILE: &str = "rights.cedar";
/// Most policies.
const MAX_POLICIES: usize = 1000;
/// Longest reason in bytes.
const MAX_WHY: usize = 300;

/// A whole configuration that passed every check but the review.
pub struct Rights {
    pub(crate) groups: Groups,
    pub(crate) quotas: Quotas,
    pub(crate) schema: Schema,
    pub(crate) members: BTreeMap<Identity, Member>,
    policies: PolicySet,
    /// Policies and floor.
    pub(crate) whole: PolicySet,
    slices: BTreeMap<Action, Slice>,
}

/// What can speak about one operation.
pub(crate) struct Slice {
    /// The policies, floor included.
    pub(crate) policies: PolicySet,
    /// Which groups the permits among them are for.
    pub(crate) permits: BTreeSet<(Name, String)>,
}

impl Rights {
    /// Reads a configuration and refuses it for the first thing that is wrong.
    pub fn parse(sources: &Sources) -> Result<Self, RightsError> {
        if sources.schema != schema() {
            return Err(RightsError::Schema);
        }
        Self::under(sources, &sources.schema)
    }

    /// Reads the configuration of another release, under the schema that it brings: only to be compared with
    /// this one's by [`crate::changes`].
    pub fn parse_other_release(sources: &Sources) -> Result<Self, RightsError> {
        if sources.schema.len() as u64 > MAX_FILE {
            return Err(RightsError::Size("schema.cedarschema", "256 KiB"));
        }
        Self::under(sources, &sources.schema)
    }

    /// The configuration that this release was built with.
    pub fn embedded() -> Result<Self, RightsError> {
        Self::parse(&sources())
    }

    fn under(sources: &Sources, schema: &str) -> Result<Self, RightsError> {
        let files =
            [("groups.toml", &sources.groups), ("quotas.toml", &sources.quotas), (FILE, &sources.policies)];
        if let Some((name, _)) = files.iter().find(|(_, text)| text.len() as u64 > MAX_FILE) {
            return Err(RightsError::Size(name, "256 KiB"));
        }
        let groups = Groups::parse(&sources.groups)?;
        let quotas = Quotas::parse(&sources.quotas, &groups)?;
        let form = |error: &dyn std::fmt::Display| RightsError::Form("schema.cedarschema", error.to_string());
        let (schema, _) = Schema::from_cedarschema_str(schema).map_err(|error| form(&error))?;
        let policies = parse(&sources.policies)?;
        for policy in policies.policies() {
            check(policy, &groups).map_err(|why| RightsError::Policy(policy.id().to_string(), why))?;
        }
        validate(&policies, &schema)?;
        every_right_is_given(&policies, &groups)?;
        let members = groups.by_member().map_err(|why| RightsError::Name("groups.toml", why))?;
        let (whole, slices) = slices(&policies)?;
        Ok(Self { groups, quotas, schema, members, policies, whole, slices })
    }

    /// The configured policies under their ids, without the floor.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Groups and fleets.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Quotas and the bounds of tokens.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub(crate) fn slice(&self, action: Action) -> Option<&Slice> {
        self.slices.get(&action)
    }
}

fn parse(text: &str) -> Result<PolicySet, RightsError> {
    if !is_shallow(text) {
        return Err(RightsError::Size(FILE, "2048 bytes and 24 open brackets in a policy"));
    }
    let parsed: PolicySet = text.parse().map_err(|error| RightsError::Form(FILE, format!("{error:?}")))?;
    if parsed.templates().next().is_some() {
        return Err(RightsError::Form(FILE, "templates are not taken: write each policy out".to_owned()));
    }
    if parsed.policies().count() > MAX_POLICIES {
        return Err(RightsError::Size(FILE, "1000 policies"));
    }
    let mut named = PolicySet::new();
    for policy in parsed.policies() {
        let id = policy.annotation("id").unwrap_or_default();
        let bad = |why: &str| RightsError::Policy(id.to_owned(), why.to_owned());
        if id.parse::<Name>().is_err() || id.starts_with(floor::PREFIX) {
            return Err(bad("want @id of a-z, 0-9 and -, not starting with floor-"));
        }
        named.add(policy.new_id(PolicyId::new(id))).map_err(|_| bad("this id is there twice"))?;
    }
    Ok(named)
}

/// What every policy must be, so that a person can read rights off the page: a permit names one group, its
/// operations one by one and one fleet; nobody and nothing is named alone; every name exists.
fn check(policy: &Policy, groups: &Groups) -> Result<(), String> {
    if policy.annotations().any(|(key, _)| key != "id" && key != "why") {
        return Err("only @id and @why are known".to_owned());
    }
    let why = policy.annotation("why").unwrap_or_default().trim();
    if why.is_empty() || why.len() > MAX_WHY {
        return Err(format!("say @why, in at most {MAX_WHY} bytes"));
    }
    for literal in policy.entity_literals() {
        let (kind, id) = (literal.type_name().to_string(), literal.id().unescaped());
        let known = match kind.as_str() {
            "Group" => groups.group(id).is_some(),
            "Fleet" => groups.fleet(id).is_some(),
            "AuditLog" => id == AUDIT_LOG,
            // The validator knows them.
            "Action" | "Environment" | "Attestation" => true,
            _ => return Err(format!("{literal} is named alone: rights go by group and fleet")),
        };
        if !known {
            return Err(format!("there is no {literal}"));
        }
    }
    if policy.effect() == Effect::Permit { permit(policy, groups) } else { Ok(()) }
}

/// The one audit log.
pub(crate) const AUDIT_LOG: &str = "audit";

fn permit(policy: &Policy, groups: &Groups) -> Result<(), String> {
    let group = group_of(policy)
        .and_then(|name| groups.group(&name))
        .ok_or("a permit is for one group: write `principal in Group::\"…\"`")?;
    let actions =
        actions(policy)?.ok_or("a permit names its operations: write `action in [Action::\"…\", …]`")?;
    let (kind, log) = match policy.resource_constraint() {
        ResourceConstraint::In(set) if is(&set, "Fleet") => (None, false),
        ResourceConstraint::IsIn(kind, set) if is(&set, "Fleet") => (Some(kind.to_string()), false),
        ResourceConstraint::Eq(log) if is(&log, "AuditLog") => (None, true),
        _ => return Err("a permit is for one fleet: write `resource in Fleet::\"…\"`".to_owned()),
    };
    for action in actions {
        if !group.operations.contains(&action) {
            return Err(format!(
                "{action} is not among the operations of group {} in groups.toml",
                group.name.as_str()
            ));
        }
        let fits = match action {
            Action::Host(operation) => {
                let mut kinds = operation.kinds().iter().copied().map(schema::resource);
                !log && kind.as_deref().is_none_or(|kind| kinds.any(|k| k == kind))
            }
            Action::ReadAuditLog => log,
        };
        if !fits {
            return Err(format!("{action} is not for this kind of resource"));
        }
    }
    Ok(())
}

fn is(uid: &EntityUid, kind: &str) -> bool {
    uid.type_name().to_string() == kind
}

/// The group that a permit is for.
pub(crate) fn group_of(policy: &Policy) -> Option<String> {
    match policy.principal_constraint() {
        PrincipalConstraint::In(group) if is(&group, "Group") => Some(group.id().unescaped().to_owned()),
        _ => None,
    }
}

/// The operations that a policy names one by one; `None` if it names none, or a class of them.
pub(crate) fn actions(policy: &Policy) -> Result<Option<BTreeSet<Action>>, String> {
    let named = match policy.action_constraint() {
        ActionConstraint::Any => return Ok(None),
        ActionConstraint::Eq(action) => vec![action],
        ActionConstraint::In(actions) => actions,
    };
    let classes = ["observe", "change", "sensitive"];
    if named.iter().any(|action| classes.contains(&action.id().unescaped())) {
        return Ok(None);
    }
    named.iter().map(|action| action.id().unescaped().parse()).collect::<Result<_, _>>().map(Some)
}

/// Strict, and warnings count: a policy that can never apply is a mistake of whoever wrote it.
fn validate(policies: &PolicySet, schema: &Schema) -> Result<(), RightsError> {
    let validator = Validator::new(schema.clone());
    let outcome = validator.validate(policies, ValidationMode::Strict);
    let errors = outcome.validation_errors().map(ToString::to_string);
    let said: Vec<String> = errors.chain(outcome.validation_warnings().map(ToString::to_string)).collect();
    if said.is_empty() { Ok(()) } else { Err(RightsError::Validation(said.join("; "))) }
}

/// The table of groups.toml promises nothing that no policy gives.
fn every_right_is_given(policies: &PolicySet, groups: &Groups) -> Result<(), RightsError> {
    let mut given = BTreeSet::new();
    for policy in policies.policies().filter(|policy| policy.effect() == Effect::Permit) {
        let group = group_of(policy).unwrap_or_default();
        given.extend(actions(policy).ok().flatten().into_iter().flatten().map(|a| (group.clone(), a)));
    }
    for group in &groups.groups {
        let name = group.name.as_str();
        if let Some(action) = group.operations.iter().find(|a| !given.contains(&(name.to_owned(), **a))) {
            let why = format!("group {name} has {action}, but no policy of rights.cedar gives it");
            return Err(RightsError::Name("groups.toml", why));
        }
    }
    Ok(())
}

/// All policies, and for each operation those that can speak about it: they name it, or name none. Each has
/// the floor.
fn slices(policies: &PolicySet) -> Result<(PolicySet, BTreeMap<Action, Slice>), RightsError> {
    let floor = floor();
    let written = FLOOR.matches("@id(").count();
    if floor.num_of_policies() != written || written == 0 {
        return Err(RightsError::Form("the floor", "this release is broken".to_owned()));
    }
    let new = || Slice { policies: floor.clone(), permits: BTreeSet::new() };
    let mut whole = floor.clone();
    let mut slices: BTreeMap<Action, Slice> = Action::all().map(|action| (action, new())).collect();
    for policy in policies.policies() {
        let bad = |why: String| RightsError::Policy(policy.id().to_string(), why);
        let twice = |_| bad("this id is there twice".to_owned());
        let named = actions(policy).map_err(bad)?;
        whole.add(policy.clone()).map_err(twice)?;
        for (action, slice) in &mut slices {
            if named.as_ref().is_some_and(|named| !named.contains(action)) {
                continue;
            }
            slice.policies.add(policy.clone()).map_err(twice)?;
            if let (Effect::Permit, Some(Ok(group))) = (policy.effect(), group_of(policy).map(|g| g.parse()))
            {
                slice.permits.insert((group, policy.id().to_string()));
            }
        }
    }
    Ok((whole, slices))
}
