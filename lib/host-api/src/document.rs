//! The OpenAPI 3.1 document, generated from the table of operations.

use crate::{Datum, ErrorBody, codes, operation::Spec};
use operations::{Method, Operation as Api};
use std::collections::BTreeMap;
use utoipa::openapi::{
    Components, Content, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, SecurityRequirement,
    path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};

const TOKEN: &str = "token";
const PROOF: &str = "proof";
const JSON: &str = "application/json";

/// The document of API version 1, as `api/controller-v1.json` holds it.
pub fn openapi() -> String {
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn document() -> OpenApi {
    let mut components = Components::new();
    refusals(&mut components);
    let paths = Api::ALL.iter().map(|api| Spec::of(*api)).fold(PathsBuilder::new(), |paths, spec| {
        let method = match spec.api.method() {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
        };
        paths.path(spec.api.path(), PathItem::new(method, operation(spec, &mut components)))
    });
    components.add_security_scheme(TOKEN, bearer());
    components.add_security_scheme(PROOF, proof());
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Azote controller API")
                .version("1")
                .description(Some("Everything that anyone can ask of a host."))
                .license(Some(
                    LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
                ))
                .build(),
        )
        .paths(paths)
        .security(Some([
            SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, []).add::<_, [&str; 0], &str>(PROOF, [])
        ]))
        .components(Some(components))
        .build()
}

fn bearer() -> SecurityScheme {
    let text =
        "A CWT (RFC 8392) signed by the token service, naming this host, the operation and the resources.";
    let scheme =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("CWT").description(Some(text));
    SecurityScheme::Http(scheme.build())
}

fn proof() -> SecurityScheme {
    let text = "A COSE_Sign1 (RFC 9052) by the token's key over method, path and query, body hash, time, a \
                number used once, and token hash; base64url.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("Azote-Proof", text)))
}

fn operation(spec: Spec, components: &mut Components) -> Operation {
    let request = (spec.request)(components);
    let mut operation = OperationBuilder::new()
        .operation_id(Some(spec.api.as_str()))
        .summary(Some(spec.api.purpose()))
        .description(Some(format!(
            "Of these the token must name what the request touches: {}.",
            named(spec.api)
        )));
    match spec.api.method() {
        Method::Get => {
            for (name, schema) in properties(components, &request) {
                operation = operation.parameter(
                    ParameterBuilder::new()
                        .name(name)
                        .parameter_in(ParameterIn::Query)
                        .required(Required::True)
                        .schema(Some(schema)),
                );
            }
        }
        Method::Post => {
            let body = RequestBodyBuilder::new().required(Some(Required::True));
            operation = operation.request_body(Some(body.content(JSON, Content::new(Some(request))).build()));
        }
    }
    let answer = (spec.answer)(components);
    operation = operation.response("200", json("Done.", answer));
    for status in components.responses.keys() {
        operation = operation.response(status, Ref::from_response_name(status));
    }
    operation.build()
}

/// The resources that a token must name.
fn named(api: Api) -> String {
    let kinds: Vec<_> = api.kinds().iter().map(|kind| format!("the {kind}")).collect();
    kinds.join(", ")
}

/// A request in the query has no component of its own: its fields become parameters.
fn properties(components: &mut Components, request: &RefOr<Schema>) -> Vec<(String, RefOr<Schema>)> {
    let RefOr::Ref(reference) = request else { return Vec::new() };
    let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
    match components.schemas.remove(name) {
        Some(RefOr::T(Schema::Object(object))) => object.properties.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What every operation can answer besides success, one entry for each status.
fn refusals(components: &mut Components) {
    let mut by_status = BTreeMap::<u16, Vec<&str>>::new();
    codes::all().for_each(|(status, code)| by_status.entry(status).or_default().push(code));
    let body = ErrorBody::schema(components);
    for (status, codes) in by_status {
        let response = json(&format!("Refused: {}.", codes.join(", ")), body.clone());
        components.responses.insert(status.to_string(), response.into());
    }
}

fn json(what: &str, schema: RefOr<Schema>) -> utoipa::openapi::Response {
    ResponseBuilder::new().description(what).content(JSON, Content::new(Some(schema))).build()
}

#[cfg(test)]
mod tests;
