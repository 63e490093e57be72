//! Every claim that the crate and `policies/README.md` make.

use super::*;
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, Schema};
use ids::{HostId, Identity, InstanceId, VolumeId};
use operations::{Operation, Resource};
use proptest::prelude::*;
use std::collections::BTreeSet;

mod decisions;
mod files;
mod reviews;

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

fn facts() -> HostFacts {
    HostFacts {
        fleet: "lab".parse().unwrap(),
        environment: Environment::Lab,
        attestation: Attestation::Passed,
        drained: false,
    }
}

fn audience() -> HostId {
    HostId::from_random(1)
}

/// A request with everything as it should be, to be spoilt in one way.
struct Asked {
    subject: Identity,
    operations: Vec<Operation>,
    resources: Vec<Resource>,
    host: HostFacts,
    now: u64,
    ticket: Option<String>,
}

impl Asked {
    fn new(subject: &str, operations: &[Operation], resources: &[Resource]) -> Self {
        Self {
            subject: identity(subject),
            operations: operations.to_vec(),
            resources: resources.to_vec(),
            host: facts(),
            now: 1_800_000_000,
            ticket: Some("T-1".to_owned()),
        }
    }

    fn decide(&self, rights: &Rights) -> Result<Grant, Refusal> {
        let audience = audience();
        let ask = Ask {
            subject: &self.subject,
            operations: &self.operations,
            resources: &self.resources,
            audience: &audience,
            host: &self.host,
            now: self.now,
            ticket: self.ticket.as_deref(),
        };
        let decided = rights.decide(&ask);
        assert_eq!(decided, rights.decide_unsliced(&ask), "slicing changes no decision");
        decided
    }

    fn code(&self, rights: &Rights) -> &'static str {
        self.decide(rights).map_or_else(|refusal| refusal.code(), |_| "granted")
    }
}

fn of_kind(kind: operations::Kind) -> Resource {
    match kind {
        operations::Kind::Host => Resource::Host(audience()),
        operations::Kind::Volume => Resource::Volume(VolumeId::from_random(1)),
        operations::Kind::Instance => Resource::Instance(InstanceId::from_random(1)),
    }
}

fn here() -> Resource {
    Resource::Host(audience())
}

/// The shipped files with `from` replaced by `to` in all of them; `from` must be there.
fn edited(from: &str, to: &str) -> Sources {
    let mut changed = sources();
    let found = [&mut changed.groups, &mut changed.quotas, &mut changed.policies].into_iter().any(|text| {
        let found = text.contains(from);
        *text = text.replace(from, to);
        found
    });
    assert!(found, "{from}");
    changed
}

fn with_policy(policy: &str) -> Sources {
    let mut changed = sources();
    changed.policies.push_str(policy);
    changed
}

fn code(sources: &Sources) -> &'static str {
    Rights::parse(sources).map_or_else(|error| error.code(), |_| "taken")
}
