//! Claim 2: what can be asked of a host, and of which class all data in it is.

use super::{
    Basis, Evidence, Outcome,
    door::{Kind, Knocks},
    proofs::{CONTENT, Proofs},
};
use crate::failure::Failure;
use host_api::{Api, DataClass};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const WHAT: &str = "Classes of all data in requests and answers";
const CLASS: &str = "x-data-class";

/// The rows.
pub(super) fn evidence(knocks: &Knocks, proofs: &Proofs) -> Vec<Evidence> {
    let text = host_api::openapi();
    let document: Result<Value, _> = serde_json::from_str(&text).map_err(Failure::state);
    let mut rows = match document {
        Ok(document) => vec![operations(&document, knocks), classes(&document)],
        Err(error) => vec![Evidence::of(WHAT, Err(error))],
    };
    rows.push(floor());
    rows.push(proofs.row("Proofs: over all requests, nobody has a right to customer content", CONTENT));
    rows
}

/// The document has the operations of the table, and the running host knows each: it refused them by name.
fn operations(document: &Value, knocks: &Knocks) -> Evidence {
    let paths = document["paths"].as_object();
    let named: BTreeSet<&str> = paths
        .into_iter()
        .flat_map(|paths| paths.values())
        .filter_map(Value::as_object)
        .flat_map(|path| path.values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    let table: Vec<&str> = Api::ALL.iter().map(|api| api.name()).collect();
    let refused =
        |kind: Kind| knocks.attempts.iter().filter(move |it| it.kind == kind && it.refused.is_right());
    let known = Api::ALL.iter().all(|api| refused(Kind::Unauthenticated).any(|it| it.api == Some(*api)));
    let unknown = refused(Kind::Unknown).count();
    let same = named == table.iter().copied().collect();
    Evidence::new(
        "The whole list of operations on a host",
        if same { Outcome::of(known) } else { Outcome::Broken },
        format!(
            "{}: {}; {}; the API document has {}; {unknown} others were asked for and are unknown",
            table.len(),
            table.join(", "),
            if known { "the running host knows each" } else { "the running host does NOT know each" },
            if same { "exactly these" } else { "OTHERS" },
        ),
        &[Basis::Release],
    )
}

/// Every leaf of every schema has a class, and customer content is none of them.
fn classes(document: &Value) -> Evidence {
    let mut counted = BTreeMap::<String, u32>::new();
    let mut wrong = Vec::new();
    let schemas = document["components"]["schemas"].as_object();
    for (name, schema) in schemas.into_iter().flatten() {
        leaves(name, schema, &mut |place, leaf| match leaf[CLASS].as_str() {
            Some(class) if class.parse::<DataClass>().is_ok() => {
                *counted.entry(class.to_owned()).or_default() += 1;
            }
            // A set of words that the document itself lists.
            None if leaf["enum"].is_array() || leaf["type"] == "boolean" => {
                *counted.entry("state".to_owned()).or_default() += 1;
            }
            other => wrong.push(format!("{place}: {}", other.unwrap_or("no class"))),
        });
    }
    let total: u32 = counted.values().sum();
    let found = if wrong.is_empty() {
        let counted: Vec<String> = counted.iter().map(|(class, count)| format!("{count} {class}")).collect();
        format!("{total} places for data: {}; no class is customer content", counted.join(", "))
    } else {
        format!("not of a class that there is: {}", wrong.join(", "))
    };
    Evidence::new(WHAT, Outcome::of(wrong.is_empty() && total > 0), found, &[Basis::Release])
}

fn leaves(place: &str, schema: &Value, found: &mut dyn FnMut(&str, &Value)) {
    if schema.get("$ref").is_some() || schema["type"] == "null" {
        return;
    }
    if let Some(items) = schema.get("items") {
        leaves(&format!("{place}[]"), items, found);
    } else if let Some(choices) = schema["oneOf"].as_array() {
        choices.iter().for_each(|choice| leaves(place, choice, found));
    } else if schema["type"] == "object" {
        let open = schema["additionalProperties"] != Value::Bool(false);
        if open {
            found(place, schema);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            leaves(&format!("{place}.{name}"), field, found);
        }
    } else {
        found(place, schema);
    }
}

/// The rights configuration of this release, and the floor that no configuration takes away.
fn floor() -> Evidence {
    const WHAT: &str = "The rights configuration, and the floor under it";
    let read = || {
        let rights = rights::Rights::embedded().map_err(Failure::state)?;
        let floor = rights::floor().policies().count();
        let set = rights::sources().hash();
        Ok(Evidence::new(
            WHAT,
            Outcome::of(floor > 0),
            format!(
                "set {set}: {} configured policies, and under them {floor} compiled in, which forbid customer content to all but its tenant",
                rights.policies().policies().count()
            ),
            &[Basis::Release],
        ))
    };
    Evidence::of(WHAT, read())
}
