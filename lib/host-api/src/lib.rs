//! The controller API, version 1: every operation that anyone has on a host, with its requests, its
//! answers, its resources and its refusal codes, declared once for server, client and documentation. This
//! crate does no I/O, holds no secret and decides nothing; it stands on the boundary between the network
//! and a host, so each type parses hostile input and is bounded.
//!
//! No operation runs a command, reads a path, or carries customer content: a message is made of
//! [`Datum`] types only, each of which states its [`DataClass`], and no class is customer content. What a console
//! prints and takes passes as ciphertext between the instance and its tenant.
//!
//! The OpenAPI 3.1 document ([`openapi`]) is generated from these declarations.
#![forbid(unsafe_code)]

mod codes;
#[macro_use]
mod datum;
mod chain;
mod document;
mod messages;
mod operation;
mod record;
mod request;
mod text;

pub use chain::{LogHead, LogReader, Refuted, verify_log};
pub use codes::{CODES, RefusalCode, refusal};
pub use datum::Datum;
pub use document::openapi;
pub use messages::{
    Accelerator, AcceleratorFamily, BoardStatus, CardStatus, ChipStatus, ConsoleOutput, CpuStatistics,
    CreditMode, Done, Erased, ErrorBody, FirmwareImage, FirmwareStatus, HostEvidence, HostStatus,
    HypervisorStatus, InstanceMeasurement, InstanceState, InstanceStatus, LogPage, LogStatus, MAX_INSTANCES,
    MachineState, Measured, OutOfService, Power, Register, ReleaseStatus, SlotState, SlotStatistics,
    Statistics, Virtualisation, VolumeState, VolumeStatus, Weakness,
};
pub use operation::{Spec, find};
pub use operations::{DataClass, Effect, Method, Operation as Api, Resource};
pub use record::{ChainBroken, GENESIS, LogRecord, MAX_PAGE, MAX_RECORD, RecordKind};
pub use request::{
    AcknowledgeLog, AttachVolume, AttestHost, Call, DetachVolume, DrainHost, HttpCall, ListFirmware,
    MAX_BODY, Malformed, OfferCertificate, PowerCycleHost, ReadConsole, ReadLog, ReadStatistics, ReadStatus,
    Request, ResetHost, ResumeHost, StartInstance, StopInstance, UpdateTokenKeys, VerifyFirmware,
    WriteConsole,
};
pub use text::{
    AttestationKey, BadText, CardCertificate, Code, ConsoleKey, DeviceName, Family, InstanceType, Label,
    Nonce, PeerAddress, Pem, RequestId, SealedConsole, SealedKey, Sentence, Sha256, Signature,
    SignedConfiguration, SignedKeys, SignedManifest, SignedStatement, Timestamp, TokenId, TpmStructure,
};
