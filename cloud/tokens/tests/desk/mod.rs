//! A token service for tests, with a rights configuration that two people have reviewed.

use super::house::{House, Running};
use ids::HostId;
use rights::{Attestation, Environment, HostFacts, Review, Reviewer, Reviewers, SetHash, Sources};
use service::Key;
use std::{collections::BTreeMap, fs, path::PathBuf};
use token::{Api, PublicKey, Resource, cose};
use tokens::{Inventory, client::TokenRequest};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-tokens");
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) const CONTROL_PLANE: &str = "azote:service/control-plane";
pub(crate) const ALICE: &str = "azote:operator/alice";
pub(crate) const AUDIT: &str = "azote:service/audit";
#[allow(dead_code, reason = "not every test rotates keys")]
pub(crate) const PIPELINE: &str = "azote:service/pipeline";
pub(crate) const AUTHOR: &str = "azote:operator/author";

pub(crate) fn host() -> HostId {
    HostId::from_random(1)
}

/// The shipped configuration in a folder, with one text replaced by another.
pub(crate) fn sources(house: &House, from: &str, to: &str) -> (PathBuf, Sources) {
    let mut sources = rights::sources();
    let parts = [&mut sources.groups, &mut sources.quotas, &mut sources.policies];
    let changed = parts.into_iter().filter(|text| text.contains(from));
    let count = changed.map(|text| *text = text.replace(from, to)).count();
    assert!(count > 0, "{from} is nowhere");
    let folder = house.path("rights");
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in [
        ("groups.toml", &sources.groups),
        ("quotas.toml", &sources.quotas),
        ("rights.cedar", &sources.policies),
        ("schema.cedarschema", &sources.schema),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    (folder, sources)
}

/// A first review of `set`, by so many of the people; gives the flags.
pub(crate) fn review(house: &House, set: SetHash, by: &[&str]) -> Vec<String> {
    reviewed(house, Review::new(set, None, 0, AUTHOR.parse().unwrap()), by)
}

/// Writes a review, by so many of the people, and the list of all of them; gives the flags.
pub(crate) fn reviewed(house: &House, mut review: Review, by: &[&str]) -> Vec<String> {
    let people = ["azote:operator/rita", "azote:operator/ravi", AUTHOR];
    let keys: Vec<Key> = people.iter().map(|_| Key::generate().unwrap()).collect();
    let reviewer = |(name, key): (&&str, &Key)| Reviewer {
        identity: name.parse().unwrap(),
        key: PublicKey(key.public()),
    };
    let list = Reviewers { reviewers: people.iter().zip(&keys).map(reviewer).collect() };
    for (name, key) in people.iter().zip(&keys).filter(|(name, _)| by.contains(name)) {
        // Not by `Review::sign`, which would refuse the author.
        let statement = review.statement(&name.parse().unwrap()).into_bytes();
        let signed = cose::sign(key.pair(), statement, b"azote/rights-review/1").unwrap();
        review.signatures.push(cose::to_base64(&signed));
    }
    let facts = HostFacts {
        fleet: "lab".parse().unwrap(),
        environment: Environment::Lab,
        attestation: Attestation::Passed,
        drained: false,
    };
    let hosts: BTreeMap<HostId, HostFacts> =
        [(host(), facts.clone()), (HostId::from_random(9), facts)].into();
    let write = |name: &str, text: String| {
        let path = house.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let flags = [
        ("--review", write("review.json", serde_json::to_string(&review).unwrap())),
        ("--reviewers", write("reviewers.toml", toml::to_string(&list).unwrap())),
        ("--inventory", write("inventory.toml", Inventory::new(hosts).to_text().unwrap())),
    ];
    flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path]).collect()
}

/// The service with the shipped configuration, one text of it replaced by another, reviewed.
pub(crate) fn start(house: &House, (from, to): (&str, &str), more: &[&str]) -> Running {
    let (folder, sources) = sources(house, from, to);
    let mut flags = review(house, sources.hash(), &["azote:operator/rita", "azote:operator/ravi"]);
    flags.extend(["--rights".to_owned(), folder.to_str().unwrap().to_owned()]);
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    house.start(PROGRAM, "tokens", &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Nothing replaced.
pub(crate) const AS_SHIPPED: (&str, &str) = ("[token]", "[token]");

pub(crate) fn ask(apis: &[Api], resources: &[Resource], holder: &Key) -> TokenRequest {
    TokenRequest {
        apis: apis.to_vec(),
        resources: resources.to_vec(),
        audience: host(),
        lifetime_seconds: None,
        uses: None,
        ticket: None,
        public_key: PublicKey(holder.public()),
    }
}
