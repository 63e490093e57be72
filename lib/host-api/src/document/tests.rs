use super::*;
use crate::{Api, CODES, DataClass};
use serde_json::Value;
use std::collections::BTreeSet;

fn generated() -> Value {
    serde_json::from_str(&openapi()).unwrap()
}

#[test]
fn the_frozen_document_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/controller-v1.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, openapi()).unwrap();
    }
    let frozen = std::fs::read_to_string(path).unwrap_or_default();
    assert!(frozen == openapi(), "the API changed: UPDATE=1 cargo test -p host-api");
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

/// Walks a schema down to its leaves. What it passes is bounded and closed.
fn leaves<'a>(document: &'a Value, schema: &'a Value, found: &mut Vec<&'a Value>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        leaves(document, &document["components"]["schemas"][name], found);
    } else if let Some(items) = schema.get("items") {
        assert!(schema["maxItems"].as_u64().is_some_and(|most| most <= 256), "unbounded: {schema}");
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

/// The class of a leaf; it is one of the closed list, and what is of it has a bound.
fn class(leaf: &Value) -> DataClass {
    let bounded = match leaf["type"].as_str() {
        Some("string") => leaf["maxLength"].is_u64() || leaf["enum"].is_array(),
        Some("integer") => leaf["minimum"].is_i64() && leaf["maximum"].is_u64(),
        Some("boolean") => true,
        _ => false,
    };
    assert!(bounded, "unbounded, or of a type that can hold anything: {leaf}");
    leaf["x-data-class"].as_str().unwrap_or("none").parse().unwrap()
}

fn classes(leaves: &[&Value]) -> BTreeSet<DataClass> {
    leaves.iter().map(|leaf| class(leaf)).collect()
}

#[test]
fn what_goes_in_and_out_is_of_the_classes_that_the_table_names_and_none_is_customer_content() {
    let closed = ["identifier", "parameter", "state", "measurement", "public", "sealed", "audit"];
    assert_eq!(DataClass::ALL.iter().map(|class| class.name()).collect::<Vec<_>>(), closed);
    let (document, none) = (generated(), Vec::new());
    for api in Api::ALL {
        let operation = &document["paths"][api.path()][api.method().name().to_lowercase()];
        assert_eq!(operation["operationId"], api.name());
        let mut asked = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        parameters.iter().for_each(|parameter| leaves(&document, &parameter["schema"], &mut asked));
        if let Some(body) = operation.get("requestBody") {
            leaves(&document, &body["content"][JSON]["schema"], &mut asked);
        }
        assert_eq!(classes(&asked), api.request_classes().iter().copied().collect(), "{api} is asked");
        let mut answered = Vec::new();
        leaves(&document, &operation["responses"]["200"]["content"][JSON]["schema"], &mut answered);
        assert_eq!(classes(&answered), api.answer_classes().iter().copied().collect(), "{api} answers");
        let refused =
            operation["responses"].as_object().unwrap().iter().filter(|(status, _)| *status != "200");
        for (_, response) in refused {
            let name = response["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            let response = &document["components"]["responses"][name]["content"][JSON];
            assert_eq!(response["schema"]["$ref"], "#/components/schemas/ErrorBody");
        }
    }
    let mut told = Vec::new();
    leaves(&document, &document["components"]["schemas"]["ErrorBody"], &mut told);
    assert_eq!(classes(&told), BTreeSet::from([DataClass::State]));
    // Nothing lies in the document that no operation reaches.
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        let reference = format!("\"#/components/schemas/{name}\"");
        assert!(document.to_string().contains(&reference), "{name}");
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
