use super::*;
use crate::{Api, CODES, DataClass};
use serde_json::Value;
use std::collections::BTreeSet;

fn generated() -> Value {
    serde_json::from_str(&openapi()).unwrap()
}

#[test]
fn the_frozen_document_is_the_generated_one() {
    let frozen =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/controller-v1.json"));
    assert!(
        frozen.unwrap_or_default() == openapi(),
        "the API changed: `cargo run -p controller --bin azote-controller -- openapi > api/controller-v1.json`"
    );
}

#[test]
fn every_api_of_a_token_is_an_operation_and_the_reverse() {
    let document = generated();
    let mut names: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut apis: Vec<_> = Api::ALL.iter().map(|api| api.to_string()).collect();
    apis.sort();
    assert_eq!(names, apis);
}

/// Walks a schema down to its leaves.
fn leaves<'a>(document: &'a Value, schema: &'a Value, found: &mut Vec<&'a Value>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        leaves(document, &document["components"]["schemas"][name], found);
    } else if let Some(items) = schema.get("items") {
        leaves(document, items, found);
    } else if let Some(choices) = schema["oneOf"].as_array() {
        choices.iter().for_each(|choice| leaves(document, choice, found));
    } else if schema["type"] == "object" {
        assert_eq!(schema["additionalProperties"], false, "an open object can hold anything: {schema}");
        let none = serde_json::Map::new();
        let fields = schema["properties"].as_object().unwrap_or(&none).keys().cloned().collect::<Vec<_>>();
        fields.iter().for_each(|name| leaves(document, &schema["properties"][name], found));
    } else if schema["type"] != "null" {
        found.push(schema);
    }
}

#[test]
fn every_value_has_a_class_and_a_bound_and_none_is_customer_content() {
    use DataClass::*;
    let classes: BTreeSet<_> =
        [Identifier, Parameter, State, Measurement, Public, Sealed, Audit].map(DataClass::name).into();
    let (document, empty) = (generated(), Vec::new());
    let mut found = Vec::new();
    for operation in
        document["paths"].as_object().unwrap().values().flat_map(|p| p.as_object().unwrap().values())
    {
        let parameters = operation["parameters"].as_array().unwrap_or(&empty);
        parameters.iter().for_each(|parameter| leaves(&document, &parameter["schema"], &mut found));
        if let Some(body) = operation.get("requestBody") {
            leaves(&document, &body["content"]["application/json"]["schema"], &mut found);
        }
        leaves(
            &document,
            &operation["responses"]["200"]["content"]["application/json"]["schema"],
            &mut found,
        );
    }
    leaves(&document, &document["components"]["schemas"]["ErrorBody"], &mut found);
    assert!(found.len() > 40, "only {} values found", found.len());
    for leaf in found {
        assert!(classes.contains(leaf["x-data-class"].as_str().unwrap_or("none")), "{leaf}");
        if leaf["type"] == "string" {
            assert!(leaf["maxLength"].is_u64() || leaf["enum"].is_array(), "unbounded: {leaf}");
        }
    }
}

#[test]
fn codes_are_unique_and_documented() {
    let document = openapi();
    let mut seen = BTreeSet::new();
    for (_, code) in codes::all() {
        assert!(seen.insert(code), "{code} twice");
        assert!(document.contains(code), "{code}");
        code.parse::<crate::Code>().unwrap();
    }
    for row in CODES {
        assert_eq!(crate::Sentence::from_lossy(row.message).as_str(), row.message);
    }
}
