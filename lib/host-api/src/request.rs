//! The requests, as the caller sends them and as the host reads them.

use crate::{
    Api, DeviceName, Resource, SealedKey,
    datum::Datum,
    messages::{Done, HostStatus, InstanceStatus, LogPage, VolumeStatus},
    operation::{Method, Spec},
};
use ids::{HostId, InstanceId, Slot, VolumeId};
use serde::de::DeserializeOwned;

/// Longest request body in bytes.
pub const MAX_BODY: usize = 16 * 1024;

messages! {
    /// Asks for the host's state.
    ReadStatus {}

    /// Asks for records of the host's log.
    ReadLog {
        /// Give only records with a greater sequence number; 0 for all.
        after: u64,
    }

    /// Asks to attach a volume.
    AttachVolume {
        /// The volume.
        volume: VolumeId,
        /// The block-device name that the tenant asked for.
        device_name: DeviceName,
        /// Size in bytes, a multiple of 4096.
        size: u64,
        /// A free slot of the main board.
        slot: Slot,
        /// The volume key, sealed to this host's card for this volume.
        sealed_key: SealedKey,
    }

    /// Asks to detach a volume.
    DetachVolume {
        /// The volume.
        volume: VolumeId,
        /// Detach although the guest still uses it. The root volume of a started instance stays.
        force: bool,
    }

    /// Asks to start an instance. A host runs one at a time.
    StartInstance {
        /// The instance.
        instance: InstanceId,
        /// Its root volume, which must be attached.
        root: VolumeId,
    }

    /// Asks to stop an instance.
    StopInstance {
        /// The instance.
        instance: InstanceId,
        /// Do not wait for the guest.
        force: bool,
    }
}

/// A request whose parameters are not those of its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request is not what this operation takes: compare it with the API document")]
pub struct Malformed;

/// A request, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// HostStatus
    ReadStatus(ReadStatus),
    /// ReadLog
    ReadLog(ReadLog),
    /// AttachVolume
    AttachVolume(AttachVolume),
    /// DetachVolume
    DetachVolume(DetachVolume),
    /// StartInstance
    StartInstance(StartInstance),
    /// StopInstance
    StopInstance(StopInstance),
}

impl Request {
    /// Reads the parameters of an operation. `query` is what follows the `?`, if there is one.
    pub fn parse(api: Api, query: Option<&str>, body: &[u8]) -> Result<Self, Malformed> {
        let reads = Spec::of(api).is_some_and(|spec| spec.method == Method::Get);
        if body.len() > MAX_BODY || (reads && !body.is_empty()) || (!reads && query.is_some()) {
            return Err(Malformed);
        }
        match api {
            Api::HostStatus if query.is_none() => Ok(Self::ReadStatus(ReadStatus {})),
            Api::HostStatus => Err(Malformed),
            Api::ReadLog => read_log(query).map(Self::ReadLog),
            Api::AttachVolume => json(body).map(Self::AttachVolume),
            Api::DetachVolume => json(body).map(Self::DetachVolume),
            Api::StartInstance => json(body).map(Self::StartInstance),
            Api::StopInstance => json(body).map(Self::StopInstance),
        }
    }

    /// What the request touches on `host`: a token must name all of it.
    pub fn resources(&self, host: &HostId) -> Vec<Resource> {
        let volume = |id: &VolumeId| Resource::Volume(id.clone());
        let instance = |id: &InstanceId| Resource::Instance(id.clone());
        match self {
            Self::ReadStatus(_) | Self::ReadLog(_) => vec![Resource::Host(host.clone())],
            Self::AttachVolume(r) => vec![volume(&r.volume)],
            Self::DetachVolume(r) => vec![volume(&r.volume)],
            Self::StartInstance(r) => vec![instance(&r.instance), volume(&r.root)],
            Self::StopInstance(r) => vec![instance(&r.instance)],
        }
    }

    /// Which operation it is.
    pub fn api(&self) -> Api {
        match self {
            Self::ReadStatus(_) => Api::HostStatus,
            Self::ReadLog(_) => Api::ReadLog,
            Self::AttachVolume(_) => Api::AttachVolume,
            Self::DetachVolume(_) => Api::DetachVolume,
            Self::StartInstance(_) => Api::StartInstance,
            Self::StopInstance(_) => Api::StopInstance,
        }
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(body).map_err(|_| Malformed)
}

fn read_log(query: Option<&str>) -> Result<ReadLog, Malformed> {
    let number = query.and_then(|q| q.strip_prefix("after=")).ok_or(Malformed)?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let after = number.parse().ok().filter(|_| digits).ok_or(Malformed)?;
    Ok(ReadLog { after })
}

/// A request as HTTP carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// Method.
    pub method: Method,
    /// Path and query; a proof of possession covers it as it is.
    pub target: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

/// A request type: what a client calls with, and what it gets.
pub trait Call: Datum + Clone + Into<Request> {
    /// Which operation it is.
    const API: Api;
    /// What a success answers.
    type Answer: Datum;

    /// The request as HTTP carries it.
    fn http(&self) -> HttpCall {
        let spec = Spec::of(Self::API);
        let (method, path) = spec.map_or((Method::Post, "/"), |spec| (spec.method, spec.path));
        match (method, self.clone().into()) {
            (Method::Get, Request::ReadLog(read)) => {
                HttpCall { method, target: format!("{path}?after={}", read.after), body: Vec::new() }
            }
            (Method::Get, _) => HttpCall { method, target: path.to_owned(), body: Vec::new() },
            (Method::Post, _) => {
                let body = serde_json::to_vec(self).unwrap_or_default();
                HttpCall { method, target: path.to_owned(), body }
            }
        }
    }
}

macro_rules! calls {
    ($($name:ident, $api:ident => $answer:ident;)*) => {$(
        impl From<$name> for Request {
            fn from(request: $name) -> Self {
                Self::$name(request)
            }
        }

        impl Call for $name {
            const API: Api = Api::$api;
            type Answer = $answer;
        }
    )*};
}

calls! {
    ReadStatus, HostStatus => HostStatus;
    ReadLog, ReadLog => LogPage;
    AttachVolume, AttachVolume => VolumeStatus;
    DetachVolume, DetachVolume => Done;
    StartInstance, StartInstance => InstanceStatus;
    StopInstance, StopInstance => Done;
}

#[cfg(test)]
mod tests;
