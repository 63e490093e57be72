//! The table of operations.

use crate::messages::{Done, HostStatus, InstanceStatus, LogPage, VolumeStatus};
use crate::request::{AttachVolume, DetachVolume, ReadLog, ReadStatus, StartInstance, StopInstance};
use crate::{Api, datum::Datum};
use utoipa::openapi::{RefOr, Schema, schema::Components};

/// The HTTP method of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads; its parameters are in the query.
    Get,
    /// Acts; its parameters are in a JSON body.
    Post,
}

impl Method {
    /// Upper case, as on the request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// What there is to know about one operation.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its name in tokens and logs.
    pub api: Api,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The resources that a token must name for it.
    pub resource: &'static str,
    pub(crate) request: SchemaOf,
    pub(crate) answer: SchemaOf,
}

type SchemaOf = fn(&mut Components) -> RefOr<Schema>;

const fn spec<R: Datum, A: Datum>(
    api: Api,
    method: Method,
    path: &'static str,
    resource: &'static str,
    purpose: &'static str,
) -> Spec {
    Spec { api, method, path, purpose, resource, request: R::schema, answer: A::schema }
}

/// Every operation on a host. There are no others.
pub const OPERATIONS: &[Spec] = &[
    spec::<ReadStatus, HostStatus>(
        Api::HostStatus,
        Method::Get,
        "/v1/status",
        "the host",
        "Tell what the host is, what it measured, and the state of its volumes and its instance.",
    ),
    spec::<ReadLog, LogPage>(
        Api::ReadLog,
        Method::Get,
        "/v1/log",
        "the host",
        "Give the next records of the host's log.",
    ),
    spec::<AttachVolume, VolumeStatus>(
        Api::AttachVolume,
        Method::Post,
        "/v1/volumes/attach",
        "the volume",
        "Show an encrypted volume to the main board as an NVMe function.",
    ),
    spec::<DetachVolume, Done>(
        Api::DetachVolume,
        Method::Post,
        "/v1/volumes/detach",
        "the volume",
        "Wipe the volume's key and take its function away.",
    ),
    spec::<StartInstance, InstanceStatus>(
        Api::StartInstance,
        Method::Post,
        "/v1/instances/start",
        "the instance and its root volume",
        "Verify the main board's firmware again and let it start from the root volume.",
    ),
    spec::<StopInstance, Done>(
        Api::StopInstance,
        Method::Post,
        "/v1/instances/stop",
        "the instance",
        "Press the power button, then hold the main board in reset.",
    ),
];

/// The operation with this method and path.
pub fn find(method: &str, path: &str) -> Option<&'static Spec> {
    OPERATIONS.iter().find(|spec| spec.method.as_str() == method && spec.path == path)
}

impl Spec {
    /// The row of an API's name.
    pub fn of(api: Api) -> Option<&'static Self> {
        OPERATIONS.iter().find(|spec| spec.api == api)
    }
}
