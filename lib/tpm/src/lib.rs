//! A TPM 2.0 client: it measures into PCRs, replays measurement logs, quotes, seals secrets, approves the
//! states in which they open, writes non-volatile memory, and proves which TPM a key lies in. It keeps no state of its own, starts no TPM and holds no policy. It speaks to a real TPM (`/dev/tpmrm0`) and to a
//! software TPM's Unix socket with the same code.
//!
//! The boundary is the one between a room and its TPM: what the TPM answers is parsed as hostile input and is
//! bounded to [`MAX_FRAME`] bytes. Whoever listens between processor and TPM sees neither secrets nor authorisation
//! values: none is sent before [`Tpm::secure`] has begun a session that is salted to the TPM's endorsement key, and with
//! it no answer is taken that the TPM did not give. What this does not stop is whoever asks the TPM for himself.
//!
//! Only the SHA-256 bank is used. A PCR is trusted only if no software can reset it (0 to 15). Sections named
//! in this crate are those of the TCG TPM 2.0 Library Specification.
#![forbid(unsafe_code)]

mod approve;
mod client;
mod credential;
mod derive;
mod error;
mod frame;
mod hierarchy;
mod log;
mod nv;
mod port;
mod quote;
mod seal;
mod secure;
mod session;

pub use approve::{Approval, Limit, MAX_APPROVAL, MAX_REFERENCE, SigningKey, check_signature};
pub use client::Tpm;
pub use credential::{Credential, CredentialError, MAX_CREDENTIAL, endorsement_point, make_credential, name};
pub use error::Error;
pub use hierarchy::{Hierarchy, STORAGE_ROOT};
pub use log::{Measurement, PcrValues, replay};
pub use nv::{MAX_NV, NV_EK_CERTIFICATE, NV_FLOOR, NV_IDENTITY, NvPublic};
pub use port::MAX_FRAME;
pub use quote::{Clock, Quote, QuoteError, check_attestation_key};
pub use seal::{MAX_SECRET, Policy};
pub use secure::Name;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Highest PCR index that no software can reset; the only ones that this crate extends.
pub const MAX_PCR: u8 = 15;

/// SHA-256 over `parts`, one after the other.
pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.into_iter().for_each(|part| context.update(part));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
