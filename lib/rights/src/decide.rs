//! One decision.

use crate::{
    Action, Attestation, HostFacts, QuotaKey, Rights,
    groups::Member,
    policies::{AUDIT_LOG, Slice},
    schema,
};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use ids::{HostId, Identity, Name};
use operations::{Operation, Resource};
use std::collections::{BTreeSet, HashSet};
use time::{OffsetDateTime, macros::format_description};

/// Longest ticket in bytes.
pub(crate) const MAX_TICKET: usize = 64;

/// What somebody asks a token for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who asks, as its certificate or OIDC provider says.
    pub subject: &'a Identity,
    /// Operations, each once.
    pub operations: &'a [Operation],
    /// Resources, each once, at most [`token::MAX_RESOURCES`].
    pub resources: &'a [Resource],
    /// The one host that shall take the token.
    pub audience: &'a HostId,
    /// What is known of that host.
    pub host: &'a HostFacts,
    /// Now, in Unix seconds.
    pub now: u64,
    /// The number of the work order: at most 64 printable ASCII characters.
    pub ticket: Option<&'a str>,
}

/// What the configuration allows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The caller's groups.
    pub groups: Vec<Name>,
    /// Ids of the policies that allow it.
    pub policies: Vec<String>,
    /// Shortest life in seconds that the token can have.
    pub shortest: u64,
    /// Life in seconds if none is asked for.
    pub default: u64,
    /// Longest life in seconds.
    pub longest: u64,
    /// Calls that the token is good for.
    pub uses: u32,
    /// Every account that the token must be counted on, all of them or none, before it is signed.
    pub quotas: Vec<QuotaKey>,
}

/// Why there is no right to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// In no group.
    #[error("you have no rights: the rights configuration does not name you")]
    Subject,
    /// An operation that none of the caller's groups has.
    #[error(
        "you may not call {0}: no policy gives it to a group of yours; ask for less, or have the rights changed"
    )]
    Api(Action),
    /// An operation without its resource, or a resource that no operation is for.
    #[error(
        "{0}: each operation needs a resource of its kind, each resource an operation, and a host is the audience"
    )]
    Resource(String),
    /// A policy of the caller's would allow it in another context.
    #[error(
        "{0} is not allowed as things are (fleet, time, ticket, attestation): look at {1} with `azote rights show`"
    )]
    Condition(Action, String),
    /// A policy forbids it.
    #[error("{0} is forbidden by {1}: `azote rights show` tells why")]
    Forbidden(Action, String),
    /// Nothing is known of the host's fleet.
    #[error(
        "the inventory puts the host in a fleet or environment that the rights configuration does not have"
    )]
    Host,
    /// A life out of bounds.
    #[error("ask for a life of {0} to {1} seconds")]
    Lifetime(u64, u64),
    /// Nothing asked for, too much, or something twice; or a ticket that is none.
    #[error(
        "want 1 or more different operations, 1 to {} different resources, and a ticket of at most {MAX_TICKET} printable characters",
        token::MAX_RESOURCES
    )]
    Malformed,
    /// A policy could not be evaluated.
    #[error("the rights configuration could not be evaluated; tell its authors")]
    Failed,
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Subject => "rights.subject",
            Self::Api(_) => "rights.api",
            Self::Resource(_) => "rights.resource",
            Self::Condition(..) => "rights.condition",
            Self::Forbidden(..) => "rights.forbidden",
            Self::Host => "rights.host",
            Self::Lifetime(..) => "rights.lifetime",
            Self::Malformed => "rights.malformed",
            Self::Failed => "rights.failed",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed | Self::Lifetime(..) => 400,
            Self::Failed => 500,
            _ => 403,
        }
    }
}

impl Grant {
    /// The life of the token in seconds, within the bounds.
    pub fn lifetime(&self, asked: Option<u64>) -> Result<u64, Refusal> {
        let life = asked.unwrap_or(self.default);
        let good = (self.shortest..=self.longest).contains(&life);
        if good { Ok(life) } else { Err(Refusal::Lifetime(self.shortest, self.longest)) }
    }
}

/// One question to Cedar: may the principal do this here?
pub(crate) struct Question {
    principal: EntityUid,
    context: Context,
    entities: Entities,
}

impl Rights {
    /// Decides. Every operation must be allowed on every resource of its kinds.
    pub fn decide(&self, ask: &Ask) -> Result<Grant, Refusal> {
        self.decide_over(ask, |slice| &slice.policies)
    }

    /// The same decision over all policies instead of those that can speak about the operation: what slicing
    /// must agree with, and is measured against.
    pub fn decide_unsliced(&self, ask: &Ask) -> Result<Grant, Refusal> {
        self.decide_over(ask, |_| &self.whole)
    }

    /// Decides over the policies that `pick` gives for an operation.
    fn decide_over<'a>(
        &'a self,
        ask: &Ask,
        pick: impl Fn(&'a Slice) -> &'a PolicySet,
    ) -> Result<Grant, Refusal> {
        let member = self.members.get(ask.subject).ok_or(Refusal::Subject)?;
        bounds(ask)?;
        let fleet = self.groups.fleet(ask.host.fleet.as_str()).ok_or(Refusal::Host)?;
        if fleet.environment != ask.host.environment {
            return Err(Refusal::Host);
        }
        let question = question(ask, member)?;
        let mut policies = BTreeSet::new();
        for operation in ask.operations {
            let action = Action::Host(*operation);
            let slice = self.slice(action).ok_or(Refusal::Failed)?;
            if !operation.callers().contains(&member.caller) {
                return Err(Refusal::Api(action));
            }
            for resource in ask.resources.iter().filter(|r| operation.kinds().contains(&r.kind())) {
                let uid = uid(schema::resource(resource.kind()), resource.id())?;
                policies.extend(self.ask_cedar(&question, action, uid, pick(slice), slice, member)?);
            }
        }
        let bounds = self.quotas.token;
        Ok(Grant {
            groups: member.groups.iter().cloned().collect(),
            policies: policies.into_iter().collect(),
            shortest: bounds.shortest_seconds,
            default: bounds.default_seconds,
            longest: bounds.longest_seconds,
            uses: if ask.operations.iter().any(|o| o.sensitive()) { 1 } else { bounds.uses },
            quotas: self.accounts(ask, member),
        })
    }

    /// Whether a group of the caller's has the operation at all.
    pub(crate) fn may_have(&self, subject: &Identity, action: Action) -> bool {
        let groups = self.members.get(subject).map(|member| &member.groups);
        let mut theirs =
            self.groups.groups.iter().filter(|g| groups.is_some_and(|own| own.contains(&g.name)));
        theirs.any(|group| group.operations.contains(&action))
    }

    /// Whether somebody may read the audit log.
    pub fn decide_reader(&self, subject: &Identity) -> Result<(), Refusal> {
        let member = self.members.get(subject).ok_or(Refusal::Subject)?;
        let action = Action::ReadAuditLog;
        let slice = self.slice(action).ok_or(Refusal::Failed)?;
        if !action.callers().contains(&member.caller) {
            return Err(Refusal::Api(action));
        }
        let (principal, entity) = principal(subject, member)?;
        let log = uid("AuditLog", AUDIT_LOG)?;
        let entities = entities([entity, Entity::new_no_attrs(log.clone(), HashSet::new())])?;
        let question = Question { principal, context: Context::empty(), entities };
        self.ask_cedar(&question, action, log, &slice.policies, slice, member).map(drop)
    }

    /// The ids of the policies that allow it.
    fn ask_cedar(
        &self,
        question: &Question,
        action: Action,
        resource: EntityUid,
        policies: &PolicySet,
        slice: &Slice,
        member: &Member,
    ) -> Result<Vec<String>, Refusal> {
        let Question { principal, context, entities } = question;
        let request = Request::new(
            principal.clone(),
            uid("Action", action.name())?,
            resource,
            context.clone(),
            Some(&self.schema),
        );
        let request = request.map_err(|_| Refusal::Failed)?;
        let answer = Authorizer::new().is_authorized(&request, policies, entities);
        let diagnostics = answer.diagnostics();
        // Cedar passes over a policy that fails. If that were a forbid, passing over it would be a hole.
        if diagnostics.errors().next().is_some() {
            return Err(Refusal::Failed);
        }
        let mut reasons: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        if answer.decision() == Decision::Allow {
            return Ok(reasons);
        }
        reasons.sort();
        if !reasons.is_empty() {
            return Err(Refusal::Forbidden(action, reasons.join(", ")));
        }
        let near = slice.permits.iter().filter(|(group, _)| member.groups.contains(group));
        let near: Vec<&str> = near.map(|(_, policy)| policy.as_str()).collect();
        Err(if near.is_empty() { Refusal::Api(action) } else { Refusal::Condition(action, near.join(", ")) })
    }

    /// The accounts of every quota that counts one of the operations.
    fn accounts(&self, ask: &Ask, member: &Member) -> Vec<QuotaKey> {
        let of_member = self.quotas.quotas.iter().filter(|quota| member.groups.contains(&quota.group));
        let mut keys = Vec::new();
        for quota in of_member {
            let counted: Vec<_> = ask.operations.iter().filter(|o| quota.operations.contains(o)).collect();
            let affected = |r: &&Resource| counted.iter().any(|o| o.kinds().contains(&r.kind()));
            let cost = ask.resources.iter().filter(affected).count() as u64;
            if cost > 0 {
                keys.extend(quota.keys(ask.subject, &ask.host.fleet, cost));
            }
        }
        keys
    }
}

/// Refuses what no policy needs to be asked about.
fn bounds(ask: &Ask) -> Result<(), Refusal> {
    let operations: BTreeSet<_> = ask.operations.iter().collect();
    let resources: BTreeSet<_> = ask.resources.iter().collect();
    let printable = |ticket: &str| {
        (1..=MAX_TICKET).contains(&ticket.len()) && ticket.bytes().all(|b| b.is_ascii_graphic())
    };
    if operations.len() != ask.operations.len()
        || resources.len() != ask.resources.len()
        || operations.is_empty()
        || !(1..=token::MAX_RESOURCES).contains(&resources.len())
        || !ask.ticket.is_none_or(printable)
    {
        return Err(Refusal::Malformed);
    }
    for operation in ask.operations {
        if !ask.resources.iter().any(|r| operation.kinds().contains(&r.kind())) {
            return Err(Refusal::Resource(operation.to_string()));
        }
    }
    for resource in ask.resources {
        let elsewhere = matches!(resource, Resource::Host(host) if host != ask.audience);
        let needed = ask.operations.iter().any(|o| o.kinds().contains(&resource.kind()));
        if elsewhere || !needed {
            return Err(Refusal::Resource(resource.to_string()));
        }
    }
    Ok(())
}

fn question(ask: &Ask, member: &Member) -> Result<Question, Refusal> {
    let (principal, asker) = principal(ask.subject, member)?;
    let fleet = uid("Fleet", ask.host.fleet.as_str())?;
    let host = uid("Host", ask.audience.as_str())?;
    let mut all = vec![
        asker,
        Entity::new_no_attrs(fleet.clone(), HashSet::new()),
        Entity::new_no_attrs(host.clone(), HashSet::from([fleet])),
    ];
    for resource in ask.resources.iter().filter(|r| !matches!(r, Resource::Host(_))) {
        let resource = uid(schema::resource(resource.kind()), resource.id())?;
        all.push(Entity::new_no_attrs(resource, HashSet::from([host.clone()])));
    }
    Ok(Question { principal, context: context(ask)?, entities: entities(all)? })
}

fn principal(subject: &Identity, member: &Member) -> Result<(EntityUid, Entity), Refusal> {
    let principal = uid(schema::principal(member.caller), &subject.to_string())?;
    let groups = member.groups.iter().map(|group| uid("Group", group.as_str())).collect::<Result<_, _>>()?;
    Ok((principal.clone(), Entity::new_no_attrs(principal, groups)))
}

fn entities(all: impl IntoIterator<Item = Entity>) -> Result<Entities, Refusal> {
    Entities::from_entities(all, None).map_err(|_| Refusal::Failed)
}

fn context(ask: &Ask) -> Result<Context, Refusal> {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let now = i64::try_from(ask.now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let now = now.and_then(|now| now.format(form).ok()).ok_or(Refusal::Malformed)?;
    let entity = |kind, id| Ok::<_, Refusal>(RestrictedExpression::new_entity_uid(uid(kind, id)?));
    let attestation: Attestation = ask.host.attestation;
    let mut pairs = vec![
        ("now".to_owned(), RestrictedExpression::new_datetime(now)),
        ("environment".to_owned(), entity("Environment", ask.host.environment.name())?),
        ("attestation".to_owned(), entity("Attestation", attestation.name())?),
        ("drained".to_owned(), RestrictedExpression::new_bool(ask.host.drained)),
    ];
    if let Some(ticket) = ask.ticket {
        pairs.push(("ticket".to_owned(), RestrictedExpression::new_string(ticket.to_owned())));
    }
    Context::from_pairs(pairs).map_err(|_| Refusal::Failed)
}

fn uid(kind: &'static str, id: &str) -> Result<EntityUid, Refusal> {
    let kind: EntityTypeName = kind.parse().map_err(|_| Refusal::Failed)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}
