//! Why a TPM did not do what it was asked.

use crate::MAX_PCR;
use std::io;
use tpm2_protocol::TpmError;

/// Why the TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached or stopped answering. The connection is of no more use: connect again.
    #[error("the TPM cannot be reached; check its path and that no other client holds it: {0}")]
    Io(#[from] io::Error),
    /// It answered what is no TPM 2.0 response, or the request does not fit one.
    #[error("the TPM and this client do not understand each other: {0}")]
    Malformed(#[from] TpmError),
    /// PCRs have other values than the secret was sealed to.
    #[error("the TPM does not unseal: the measured state is not the one that the secret was sealed to")]
    Policy,
    /// The blob was sealed by another TPM, or the TPM was cleared since, or the blob was altered.
    #[error("the TPM does not unseal: the blob is altered or comes from another TPM")]
    Integrity,
    /// The blob is no sealed blob of a known format.
    #[error("this is no sealed blob of a known format")]
    Blob,
    /// Too long to seal or to be a nonce.
    #[error("the data has a length that is not allowed here")]
    Length,
    /// Not a PCR that may be used.
    #[error("PCR {0} is not one of 0 to {MAX_PCR}")]
    PcrIndex(u8),
    /// The floor counter has passed what the secret's approval allows.
    #[error("the TPM does not unseal: the approval is for releases older than the floor")]
    Rollback,
    /// An authorisation value is wrong, or there is none where one is needed.
    #[error("the TPM refuses the authorisation value")]
    Auth,
    /// An NV index is locked for good.
    #[error("the NV index is written and locked; only clearing the TPM frees it")]
    Locked,
    /// A handle means nothing: an object or an NV index is not there.
    #[error("the TPM has nothing at this handle")]
    Absent,
    /// A signing key is no key of this TPM's.
    #[error("this is no key that this crate made")]
    Key,
    /// An approval has another form, or another key signed it, or for something else.
    #[error("the approval is altered or was signed for something else")]
    Approval,
    /// A signature that the TPM was asked to check is wrong.
    #[error("the TPM says that the signature is wrong")]
    Signature,
    /// A parameter has a value that the TPM does not take.
    #[error("the TPM does not take a value")]
    Value,
    /// An answer, or what the session was begun with, is not what the TPM said, or it said it before. The connection is
    /// of no more use.
    #[error(
        "an answer of the TPM was altered or replayed on its way; look what is between it and the processor"
    )]
    Altered,
    /// The TPM's endorsement key is not the known one.
    #[error("this is another TPM than before, or something between it and the processor poses as it")]
    Foreign,
    /// A secret would have gone over the bus in the clear: [`crate::Tpm::secure`] comes first.
    #[error("the connection to the TPM is not secured")]
    Unsecured,
    /// No PCR was named where one is needed.
    #[error("name at least one PCR")]
    NoPcr,
    /// What is at the place of the storage root key is another kind of key.
    #[error("the TPM's storage root key is not one that the TPM made for itself; clear the TPM")]
    StorageRoot,
    /// Any other refusal, with the TPM's response code.
    #[error("the TPM refused with response code {0:#05x}")]
    Refused(u32),
}

impl Error {
    /// The stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "tpm.unreachable",
            Self::Malformed(_) => "tpm.malformed",
            Self::Policy => "tpm.policy",
            Self::Integrity | Self::Blob => "tpm.blob",
            Self::Rollback => "tpm.rollback",
            Self::Auth => "tpm.auth",
            Self::Locked => "tpm.locked",
            Self::Absent => "tpm.absent",
            Self::StorageRoot => "tpm.storage-root",
            Self::Altered => "tpm.altered",
            Self::Foreign => "tpm.foreign",
            Self::Unsecured => "tpm.unsecured",
            Self::Key => "tpm.key",
            Self::Approval | Self::Signature => "tpm.approval",
            Self::Length | Self::PcrIndex(_) | Self::NoPcr | Self::Value => "tpm.argument",
            Self::Refused(_) => "tpm.refused",
        }
    }
}

/// A format 1 response code without the number of the handle, session or parameter at fault (part 2, §6.6.2).
const FORMAT_1: u32 = 0xbf;
const VALUE: u32 = 0x84;
const HANDLE: u32 = 0x8b;
const AUTH_FAIL: u32 = 0x8e;
const SIGNATURE: u32 = 0x9b;
const POLICY_FAIL: u32 = 0x9d;
const INTEGRITY: u32 = 0x9f;
const BAD_AUTH: u32 = 0xa2;
/// `TPM_RC_NV_LOCKED` and `TPM_RC_POLICY`, which is what a comparison in a policy gives (part 2, §6.6.3).
const NV_LOCKED: u32 = 0x148;
const POLICY: u32 = 0x126;

/// What a response code other than success means.
pub(crate) fn refusal(code: u32) -> Error {
    match (code, code & FORMAT_1) {
        (NV_LOCKED, _) => Error::Locked,
        (POLICY, _) => Error::Rollback,
        (_, POLICY_FAIL) => Error::Policy,
        (_, INTEGRITY) => Error::Integrity,
        (_, SIGNATURE) => Error::Signature,
        (_, VALUE) => Error::Value,
        (_, HANDLE) => Error::Absent,
        (_, AUTH_FAIL | BAD_AUTH) => Error::Auth,
        _ => Error::Refused(code),
    }
}
