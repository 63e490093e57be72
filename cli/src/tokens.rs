//! What the token service is started with in the lab, and `azote tokens`: the rotation of its signing keys.

use crate::{
    args::Tokens,
    cloud::{Cloud, Who, now},
    failure::{Doing, Failure},
    out::Out,
    place::Place,
    up::Installation,
};
use ids::Identity;
use rights::{Attestation, Environment, HostFacts, Review, Reviewer, Reviewers};
use serde_json::json;
use service::{CallError, Credentials};
use std::{fs, path::Path};
use token::{PublicKey, cose};
use tokens::{Inventory, client::KeySets};

/// Who reviews the rights configuration of a lab: keys that the lab makes itself.
pub(crate) const REVIEWERS: [(&str, &str); 2] =
    [("reviewer-1", "azote:operator/rita"), ("reviewer-2", "azote:operator/ravi")];
/// Who wrote it, as far as a lab knows.
const AUTHOR: &str = "azote:operator/lab";
const FLEET: &str = "lab";

/// What the token service reads at its start: flags, and files in its folder.
pub(crate) const FLAGS: [(&str, &str); 3] =
    [("--inventory", INVENTORY), REVIEWED_FLAGS[0], REVIEWED_FLAGS[1]];
/// Those of them that the audit service is given too.
pub(crate) const REVIEWED_FLAGS: [(&str, &str); 2] = [("--reviewers", LIST), ("--review", REVIEW)];
/// Seconds from the announcement of a signing key to its first signature: a lab's one host is told at once.
pub(crate) const OVERLAP: &str = "15";
const INVENTORY: &str = "inventory.toml";
const LIST: &str = "reviewers.toml";
const REVIEW: &str = "review.json";

/// Writes those files.
pub(crate) fn write_files(out: Out, place: &Place, installation: &Installation) -> Result<(), Failure> {
    let folder = place.path("tokens");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        service::write_atomic(&path, text.as_bytes()).doing(path.display())
    };
    let reviewers = reviewers(place)?;
    let list = Reviewers { reviewers: reviewers.iter().map(|(reviewer, _)| reviewer.clone()).collect() };
    let review = review(out, &folder.join(REVIEW), &list, &reviewers)?;
    write(INVENTORY, inventory(installation)?)?;
    write(LIST, toml::to_string(&list).map_err(Failure::state)?)?;
    write(REVIEW, serde_json::to_string_pretty(&review).map_err(Failure::state)?)
}

fn inventory(installation: &Installation) -> Result<String, Failure> {
    // No host has the name of the importer's card. It has facts, so that a token for it can be asked for, and refused here.
    let hosts = [&installation.host, &installation.importer].into_iter().map(|host| {
        let facts = HostFacts {
            fleet: FLEET.parse().map_err(Failure::state)?,
            environment: Environment::Lab,
            attestation: Attestation::Unknown,
            drained: false,
        };
        Ok((host.clone(), facts))
    });
    Inventory::new(hosts.collect::<Result<_, Failure>>()?).to_text().map_err(Failure::State)
}

fn reviewers(place: &Place) -> Result<Vec<(Reviewer, Credentials)>, Failure> {
    let read = |(name, identity): &(&str, &str)| {
        let credentials = Credentials::read(&place.path(&format!("identities/{name}.pem")));
        let credentials = credentials.map_err(Failure::state)?;
        let key = PublicKey(credentials.key().public());
        Ok((Reviewer { identity: identity.parse().map_err(Failure::state)?, key }, credentials))
    };
    REVIEWERS.iter().map(read).collect()
}

/// The review of this release's configuration. A lab has nobody to review it: it signs itself, and says so.
fn review(
    out: Out,
    path: &Path,
    list: &Reviewers,
    reviewers: &[(Reviewer, Credentials)],
) -> Result<Review, Failure> {
    let set = rights::sources().hash();
    let present = fs::read_to_string(path).ok().and_then(|text| Review::parse(&text).ok());
    if let Some(present) = &present
        && present.verify(list, &set).is_ok()
    {
        return Ok(present.clone());
    }
    let author: Identity = AUTHOR.parse().map_err(Failure::state)?;
    let number = present.as_ref().map_or(0, |present| present.number + 1).max(now());
    let mut review = Review::new(set, present.map(|present| present.set), number, author);
    for (reviewer, credentials) in reviewers {
        review.sign(&reviewer.identity, credentials.key().pair()).map_err(Failure::state)?;
    }
    out.remark(
        "nobody reviewed the rights configuration: this lab signed it with two keys that it made itself",
    );
    Ok(review)
}

/// `azote tokens …`
pub(crate) fn run(out: Out, cloud: &Cloud, verb: &Tokens) -> Result<(), Failure> {
    match verb {
        Tokens::Keys => {
            let sets = cloud.key_sets()?;
            out.result(&describe(&sets), &sets);
            Ok(())
        }
        Tokens::Rotate => {
            let sets = cloud.rotate_keys()?;
            push(out, cloud, &sets)
        }
        Tokens::Push => push(out, cloud, &cloud.key_sets()?),
    }
}

fn describe(sets: &KeySets) -> String {
    let signing = String::from(sets.signing);
    let state = match sets.until {
        Some(until) => format!("a rotation goes on in {} s", until.saturating_sub(now())),
        None => "no rotation is under way".to_owned(),
    };
    format!("set        {}\nsigned by  {signing}\nrotation   {state}", sets.sequence)
}

/// Tells the host of every set that it may have missed, in order.
fn push(out: Out, cloud: &Cloud, sets: &KeySets) -> Result<(), Failure> {
    let (mut taken, mut last) = (0, Ok(()));
    for set in &sets.sets {
        let bytes =
            cose::from_base64(set).ok_or_else(|| Failure::state("the token service gave no key set"))?;
        let key_set = host_api::SignedKeys::from_bytes(&bytes).map_err(Failure::state)?;
        last = match cloud.call(Who::Pipeline, &host_api::UpdateTokenKeys { key_set }) {
            Ok(_) => {
                taken += 1;
                Ok(())
            }
            Err(Failure::Call(CallError::Refused { code, .. })) if code == "keys.stale" => Ok(()),
            // Signed by a key that the host trusts no more, or not yet: a later one may be for it.
            Err(Failure::Call(error)) if error.code() == "keys.signature" => Err(error),
            Err(error) => return Err(error),
        }
    }
    last?;
    let host = &cloud.installation.host;
    let text = format!("{}\nhost       {host} took {taken} of {} sets", describe(sets), sets.sets.len());
    out.result(&text, &json!({"keys": sets, "host": host, "taken": taken}));
    Ok(())
}
