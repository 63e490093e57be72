//! The requests, as the caller sends them and as the host reads them.

use crate::{
    Api, ConsoleKey, DeviceName, InstanceType, Resource, SealedConsole, SealedKey, Sentence,
    datum::Datum,
    messages::{
        ConsoleOutput, CreditMode, Done, Erased, FirmwareStatus, HostEvidence, HostStatus, InstanceStatus,
        LogPage, Statistics, VolumeStatus,
    },
    operation::SchemaOf,
    text::{AttestationKey, Nonce, Pem, Sha256, SignedKeys},
};
use ids::{HostId, InstanceId, Slot, VolumeId};
use operations::Method;

/// Longest request body in bytes.
pub const MAX_BODY: usize = 48 * 1024;

messages! {
    /// Asks for the host's state.
    ReadStatus {}

    /// Asks for evidence.
    AttestHost {
        /// Random, of whoever asks, used once.
        nonce: Nonce,
    }

    /// Asks for the host's images.
    ListFirmware {}

    /// Asks for all of them to be read again.
    VerifyFirmware {}

    /// Asks for records of the host's log.
    ReadLog {
        /// Give only records with a greater sequence number; 0 for all.
        after: u64,
    }

    /// Tells that the audit service holds the host's log.
    AcknowledgeLog {
        /// Sequence number of the last record that it holds.
        up_to: u64,
        /// Root hash of the audit service's durable checkpoint that covers it.
        checkpoint: Sha256,
    }

    /// Asks to drain the host.
    DrainHost {}

    /// Asks to end a drain.
    ResumeHost {}

    /// Asks to power-cycle the main board.
    PowerCycleHost {}

    /// Asks to go back to the first state.
    ResetHost {}

    /// Offers the next certificates, for the host's present keys.
    OfferCertificate {
        /// The certificate of its identity key and those above it, valid for longer than the present one.
        chain: Pem,
        /// What certifies its TPM's attestation key.
        attestation_certificate: AttestationKey,
        /// The certificate of the key under which its instances prove what they are, and those above it.
        instances_chain: Option<Pem>,
    }

    /// Asks to trust the next keys of the token service.
    UpdateTokenKeys {
        /// The set, signed by a key of the present one.
        key_set: SignedKeys,
    }

    /// Asks to attach a volume.
    AttachVolume {
        /// The volume.
        volume: VolumeId,
        /// The block-device name that the tenant asked for.
        device_name: DeviceName,
        /// Size in bytes, a multiple of 4096.
        size: u64,
        /// For which instance, which may start later; without it, for the main board.
        instance: Option<InstanceId>,
        /// A free slot of the main board or of the instance.
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

    /// Asks to start an instance. A host runs one on the main board, or others beside each other.
    StartInstance {
        /// The instance.
        instance: InstanceId,
        /// Its root volume, which must be attached: to the main board, or to this instance.
        root: VolumeId,
        /// Its type; `metal` is the main board.
        instance_type: InstanceType,
        /// The tenant's key, to which it seals its console; without it, no console is kept.
        console_key: Option<ConsoleKey>,
        /// For a burstable type: what it does when no credits are left; without it, the type's default.
        credits: Option<CreditMode>,
    }

    /// Asks to stop an instance.
    StopInstance {
        /// The instance.
        instance: InstanceId,
        /// Do not wait for the guest.
        force: bool,
    }

    /// Asks for an instance's numbers.
    ReadStatistics {
        /// The instance.
        instance: InstanceId,
    }

    /// Asks for console output.
    ReadConsole {
        /// The instance.
        instance: InstanceId,
        /// Bytes that the reader has already; 0 for all that is kept.
        after: u64,
    }

    /// Brings console input.
    WriteConsole {
        /// The instance.
        instance: InstanceId,
        /// What was typed, sealed by the tenant.
        sealed: SealedConsole,
    }
}

impl StartInstance {
    /// An instance on the main board.
    pub fn metal(instance: InstanceId, root: VolumeId) -> Self {
        Self { instance, root, instance_type: InstanceType::metal(), console_key: None, credits: None }
    }
}

/// A request whose parameters are not those of its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request is not what this operation takes: compare it with the API document")]
pub struct Malformed;

/// Ties the operations of the table to their request and answer types.
macro_rules! calls {
    ($($name:ident, $api:ident => $answer:ident;)*) => {
        /// A request, read.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request { $(#[doc = stringify!($api)] $name($name)),* }

        impl Request {
            /// Which operation it is.
            pub fn api(&self) -> Api {
                match self { $(Self::$name(_) => Api::$api),* }
            }

            pub(crate) fn schemas(api: Api) -> (SchemaOf, SchemaOf) {
                match api { $(Api::$api => (<$name as Datum>::schema, <$answer as Datum>::schema)),* }
            }

            fn read(api: Api, query: Option<&str>, body: &[u8]) -> Result<Self, Malformed> {
                match api { $(Api::$api => read::<$name>(query, body).map(Self::$name)),* }
            }
        }

        $(
            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }

            impl Call for $name {
                const API: Api = Api::$api;
                type Answer = $answer;
            }
        )*
    };
}

calls! {
    ReadStatus, HostStatus => HostStatus;
    AttestHost, AttestHost => HostEvidence;
    ListFirmware, ListFirmware => FirmwareStatus;
    VerifyFirmware, VerifyFirmware => FirmwareStatus;
    ReadLog, ReadLog => LogPage;
    AcknowledgeLog, AcknowledgeLog => Done;
    DrainHost, DrainHost => Done;
    ResumeHost, ResumeHost => Done;
    PowerCycleHost, PowerCycleHost => Done;
    ResetHost, ResetHost => Erased;
    OfferCertificate, OfferCertificate => Done;
    UpdateTokenKeys, UpdateTokenKeys => Done;
    AttachVolume, AttachVolume => VolumeStatus;
    DetachVolume, DetachVolume => Done;
    StartInstance, StartInstance => InstanceStatus;
    StopInstance, StopInstance => Done;
    ReadStatistics, InstanceStatistics => Statistics;
    ReadConsole, ReadConsole => ConsoleOutput;
    WriteConsole, WriteConsole => Done;
}

impl Request {
    /// Reads the parameters of an operation. `query` is what follows the `?`, if there is one.
    pub fn parse(api: Api, query: Option<&str>, body: &[u8]) -> Result<Self, Malformed> {
        let reads = api.method() == Method::Get;
        if body.len() > MAX_BODY || (reads && !body.is_empty()) || (!reads && query.is_some()) {
            return Err(Malformed);
        }
        // The slot behind those of volumes is the host's own.
        let hosts = |request: &Self| matches!(request, Self::AttachVolume(r) if r.slot == Slot::HOST);
        Self::read(api, query, body)
            .and_then(|request| if hosts(&request) { Err(Malformed) } else { Ok(request) })
    }

    /// What the request touches on `host`: a token must name all of it.
    pub fn resources(&self, host: &HostId) -> Vec<Resource> {
        let volume = |id: &VolumeId| Resource::Volume(id.clone());
        let instance = |id: &InstanceId| Resource::Instance(id.clone());
        match self {
            Self::ReadStatus(_)
            | Self::AttestHost(_)
            | Self::ListFirmware(_)
            | Self::VerifyFirmware(_)
            | Self::ReadLog(_)
            | Self::AcknowledgeLog(_)
            | Self::DrainHost(_)
            | Self::ResumeHost(_)
            | Self::PowerCycleHost(_)
            | Self::ResetHost(_)
            | Self::OfferCertificate(_)
            | Self::UpdateTokenKeys(_) => vec![Resource::Host(host.clone())],
            Self::AttachVolume(r) => {
                std::iter::once(volume(&r.volume)).chain(r.instance.as_ref().map(instance)).collect()
            }
            Self::DetachVolume(r) => vec![volume(&r.volume)],
            Self::StartInstance(r) => vec![instance(&r.instance), volume(&r.root)],
            Self::StopInstance(r) => vec![instance(&r.instance)],
            Self::ReadStatistics(r) => vec![instance(&r.instance)],
            Self::ReadConsole(r) => vec![instance(&r.instance)],
            Self::WriteConsole(r) => vec![instance(&r.instance)],
        }
    }
}

impl Request {
    /// The parameters that the host's log notes, in the order of [`Api::notes`].
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::AcknowledgeLog(r) => {
                vec![("up_to", r.up_to.to_string()), ("checkpoint", r.checkpoint.to_string())]
            }
            Self::UpdateTokenKeys(r) => {
                let sequence = token::KeySet::sequence_of(&r.key_set.to_bytes());
                vec![("sequence", sequence.map_or_else(|| "unknown".to_owned(), |number| number.to_string()))]
            }
            Self::AttachVolume(r) => vec![("slot", r.slot.to_string()), ("size", r.size.to_string())],
            Self::DetachVolume(r) => vec![("force", r.force.to_string())],
            Self::StartInstance(r) => {
                let credits = r.credits.map_or("default", CreditMode::as_str);
                vec![("instance_type", r.instance_type.to_string()), ("credits", credits.to_owned())]
            }
            Self::StopInstance(r) => vec![("force", r.force.to_string())],
            Self::ReadStatus(_)
            | Self::AttestHost(_)
            | Self::ListFirmware(_)
            | Self::VerifyFirmware(_)
            | Self::ReadLog(_)
            | Self::DrainHost(_)
            | Self::ResumeHost(_)
            | Self::PowerCycleHost(_)
            | Self::ResetHost(_)
            | Self::OfferCertificate(_)
            | Self::ReadStatistics(_)
            | Self::ReadConsole(_)
            | Self::WriteConsole(_) => vec![],
        }
    }

    /// The notes as a record's detail: `up_to=40 checkpoint=…`.
    pub fn detail(&self) -> Option<Sentence> {
        let notes: Vec<_> = self.notes().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!notes.is_empty()).then(|| Sentence::from_lossy(&notes.join(" ")))
    }
}

/// A request in the query is a list of `name=value`, each a number or an identifier; one in the body is JSON.
fn read<C: Call>(query: Option<&str>, body: &[u8]) -> Result<C, Malformed> {
    if C::API.method() == Method::Post {
        // A list of the fields in their order would be read as well.
        let object = body.trim_ascii_start().first() == Some(&b'{');
        return serde_json::from_slice(body).ok().filter(|_| object).ok_or(Malformed);
    }
    let mut fields = serde_json::Map::new();
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, text) = pair.split_once('=').ok_or(Malformed)?;
        let value = if text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse::<u64>().map_err(|_| Malformed)?.into()
        } else {
            serde_json::Value::from(text)
        };
        if fields.insert(name.to_owned(), value).is_some() {
            return Err(Malformed);
        }
    }
    serde_json::from_value(fields.into()).map_err(|_| Malformed)
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
        let (method, path) = (Self::API.method(), Self::API.path());
        let value = serde_json::to_value(self).unwrap_or_default();
        if method == Method::Post {
            return HttpCall { method, target: path.to_owned(), body: value.to_string().into_bytes() };
        }
        let fields = value.as_object().into_iter().flatten().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        let query = fields.collect::<Vec<_>>().join("&");
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        HttpCall { method, target, body: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
