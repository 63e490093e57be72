//! What each operation of the table takes and answers.

use crate::request::Request;
use operations::Operation;
use utoipa::openapi::{RefOr, Schema, schema::Components};

/// What there is to know about one operation beside the table's row.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its row in the table.
    pub api: Operation,
    pub(crate) request: SchemaOf,
    pub(crate) answer: SchemaOf,
}

pub(crate) type SchemaOf = fn(&mut Components) -> RefOr<Schema>;

/// The operation with this method and path.
pub fn find(method: &str, path: &str) -> Option<Spec> {
    Operation::find(method, path).map(Spec::of)
}

impl Spec {
    /// What an operation takes and answers.
    pub fn of(api: Operation) -> Self {
        let (request, answer) = Request::schemas(api);
        Self { api, request, answer }
    }
}
