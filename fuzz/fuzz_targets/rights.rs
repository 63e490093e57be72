//! Rights configurations and their reviews. The first byte chooses which file the rest is, or that it is the
//! condition of a policy. Whatever is taken decides the same with and without slices, and gives nobody more
//! than the table of its groups.
#![no_main]

use ids::{HostId, Identity, VolumeId};
use libfuzzer_sys::fuzz_target;
use operations::{Kind, Operation, Resource};
use rights::{Action, Ask, Attestation, Environment, HostFacts, Review, Reviewers, Rights, sources};

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest).into_owned();
    let mut files = sources();
    match kind {
        0 => files.policies = text,
        1 => files.policies += &text,
        2 => files.groups = text,
        3 => files.quotas = text,
        4 => {
            let Ok(review) = Review::parse(&text) else { return };
            let nobody = Reviewers { reviewers: Vec::new() };
            assert!(review.verify(&nobody, &files.hash()).is_err());
            return;
        }
        5 => return drop(Reviewers::parse(&text)),
        _ => {
            files.policies += &format!(
                "@id(\"new\") @why(\"-\") permit (principal in Group::\"host-keepers\", \
                 action == Action::\"DrainHost\", resource in Fleet::\"lab\") when {{ {text} }};"
            );
        }
    }
    if let Ok(rights) = Rights::parse(&files) {
        hold(&rights);
    }
});

fn hold(rights: &Rights) {
    let audience = HostId::from_random(1);
    let Some(fleet) = rights.groups().fleets.first() else { return };
    let host = HostFacts {
        fleet: fleet.name.clone(),
        environment: fleet.environment,
        attestation: Attestation::Passed,
        drained: fleet.environment == Environment::Lab,
    };
    let nobody: Identity = "azote:tenant/acme".parse().unwrap();
    let members = rights.groups().groups.iter().flat_map(|group| group.members.iter().take(1));
    for subject in members.chain([&nobody]) {
        for operation in Operation::ALL {
            let resource = match operation.kinds() {
                [Kind::Host] => Resource::Host(audience.clone()),
                _ => Resource::Volume(VolumeId::from_random(1)),
            };
            let ask = Ask {
                subject,
                operations: &[*operation],
                resources: &[resource],
                audience: &audience,
                host: &host,
                now: 1_800_000_000,
                ticket: Some("T-1"),
            };
            let decided = rights.decide(&ask);
            assert_eq!(decided, rights.decide_unsliced(&ask));
            let mut theirs = rights.groups().groups.iter().filter(|group| group.members.contains(subject));
            let table = theirs.any(|group| group.operations.contains(&Action::Host(*operation)));
            assert!(table || decided.is_err(), "{subject} {operation}");
        }
    }
}
