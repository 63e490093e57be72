//! Requests and answers in CBOR (RFC 8949), encoded as serde does it: operations without parameters are text, others
//! a map with one entry.

use crate::PcrError;
use ciborium::Value;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Longest request in bytes, as the kernel's driver sends it.
pub const MAX_REQUEST: usize = 0x1000;
/// Longest answer in bytes, as the kernel's driver takes it.
pub const MAX_RESPONSE: usize = 0x3000;

const OPERATIONS: [&str; 7] =
    ["DescribeNSM", "DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "GetRandom", "Attestation"];

/// What a guest asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// What the module is.
    DescribeNSM,
    /// The value of a register.
    DescribePCR {
        /// Which register.
        index: u16,
    },
    /// Extend a register that is not locked.
    ExtendPCR {
        /// Which register.
        index: u16,
        /// By what.
        data: ByteBuf,
    },
    /// Lock a register until the instance's next start.
    LockPCR {
        /// Which register.
        index: u16,
    },
    /// Lock the first registers.
    LockPCRs {
        /// How many, from register 0 on.
        range: u16,
    },
    /// Random bytes.
    GetRandom,
    /// A signed document. Fields are put into it as they are, at most [`crate::MAX_FIELD`] bytes each.
    Attestation {
        /// Anything.
        user_data: Option<ByteBuf>,
        /// What the one who asked wants to find, so that the document is not an old one.
        nonce: Option<ByteBuf>,
        /// A public key for those who answer to the document.
        public_key: Option<ByteBuf>,
    },
}

impl Request {
    /// Reads one request; nothing may follow it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ErrorCode> {
        if bytes.len() > MAX_REQUEST {
            return Err(ErrorCode::InputTooLarge);
        }
        let mut rest = bytes;
        let value: Value = ciborium::from_reader(&mut rest).map_err(|_| ErrorCode::InvalidArgument)?;
        let name = match &value {
            Value::Text(name) => Some(name.as_str()),
            Value::Map(entries) => match entries.as_slice() {
                [(Value::Text(name), _)] => Some(name.as_str()),
                _ => None,
            },
            _ => None,
        };
        match name {
            Some(name) if !OPERATIONS.contains(&name) => Err(ErrorCode::InvalidOperation),
            Some(_) if rest.is_empty() => value.deserialized().map_err(|_| ErrorCode::InvalidArgument),
            _ => Err(ErrorCode::InvalidArgument),
        }
    }
}

/// The hash of the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Digest {
    /// SHA-384.
    SHA384,
}

/// What a guest is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// What the module is.
    DescribeNSM {
        /// Of the protocol: 1.0.0.
        version_major: u16,
        /// See `version_major`.
        version_minor: u16,
        /// See `version_major`.
        version_patch: u16,
        /// The module: the instance and its start.
        module_id: String,
        /// Number of registers.
        max_pcrs: u16,
        /// Those that are locked, ascending.
        locked_pcrs: Vec<u16>,
        /// Their hash.
        digest: Digest,
    },
    /// A register.
    DescribePCR {
        /// Whether it is locked.
        lock: bool,
        /// Its value.
        data: ByteBuf,
    },
    /// A register after it was extended.
    ExtendPCR {
        /// Its value.
        data: ByteBuf,
    },
    /// Locked.
    LockPCR,
    /// Locked.
    LockPCRs,
    /// Random bytes.
    GetRandom {
        /// 256 bytes.
        random: ByteBuf,
    },
    /// A signed document.
    Attestation {
        /// COSE_Sign1.
        document: ByteBuf,
    },
    /// Refused or failed.
    Error(ErrorCode),
}

impl Response {
    /// The answer's bytes, or those of [`ErrorCode::BufferTooSmall`] if they are more than `room`.
    pub fn encode(&self, room: usize) -> Vec<u8> {
        let encode = |response: &Self| {
            let mut bytes = Vec::new();
            // Nothing in here cannot be encoded, and memory takes all of it.
            ciborium::into_writer(response, &mut bytes).map_or_else(|_| Vec::new(), |()| bytes)
        };
        match encode(self) {
            bytes if bytes.len() <= room => bytes,
            _ => encode(&Self::Error(ErrorCode::BufferTooSmall)),
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// It is no request, or a parameter makes no sense.
    InvalidArgument,
    /// There is no such register.
    InvalidIndex,
    /// The register is locked.
    ReadOnlyIndex,
    /// There is no such operation.
    InvalidOperation,
    /// The answer does not fit into the guest's buffer.
    BufferTooSmall,
    /// The request or a field of it is too long.
    InputTooLarge,
    /// The module cannot do it now: it has no certificate yet, or none that is still good.
    InternalError,
}

impl From<PcrError> for ErrorCode {
    fn from(error: PcrError) -> Self {
        match error {
            PcrError::Index => Self::InvalidIndex,
            PcrError::Locked => Self::ReadOnlyIndex,
            PcrError::TooLong => Self::InputTooLarge,
        }
    }
}
