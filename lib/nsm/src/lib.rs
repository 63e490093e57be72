//! The Nitro Security Module of an instance: its registers, its requests and answers, and the signed documents by which
//! the instance proves to others what it is. Wire format and document are those of AWS's Nitro Enclaves, so that their
//! clients and verifiers work; the root of the certificates is this environment's own.
//!
//! [`verify`] is for those who get such a document.
//!
//! It does no I/O: time comes as an argument, bytes come and go. It decides nothing about which instance may have a
//! module, and keeps no state beyond the process.
//!
//! Trust boundary: requests come from guests and may be anything, at most [`MAX_REQUEST`] bytes; certificates come from
//! the controller and the authority, and are taken only for the key that is here. Whoever verifies a document believes
//! the root's certificate alone.
//!
//! # Certificates
//!
//! | certificate | key is in | signed by | lives |
//! |---|---|---|---|
//! | root, `CN=azote.instance-attestation` | the authority, offline | itself | 5 years |
//! | environment | the authority | root | 90 days at most |
//! | host, `CN=h-….azote` | the controller ([`HostKey`]) | environment | as its identity: 24 h |
//! | instance, `CN=i-….azote` | the attestation card ([`CardKey`]) | host | 24 h |
//! | document, `CN=i-…-enc….azote` | the attestation card | instance | 3 h |
//!
//! All keys are P-384, all signatures ECDSA with SHA-384, no certificate is longer than [`MAX_CERTIFICATE`] bytes.
#![forbid(unsafe_code)]

mod certificate;
mod document;
mod message;
mod module;
mod pcr;
mod registers;
mod verify;

pub use certificate::{
    CardKey, CertificateError, Chain, HostKey, INSTANCE_LIFETIME, Issuer, LEAF_LIFETIME, MAX_CERTIFICATE,
    MAX_CHAIN, host_name,
};
pub use message::{Digest, ErrorCode, MAX_REQUEST, MAX_RESPONSE, Request, Response};
pub use module::{MAX_FIELD, Module};
pub use pcr::{Bank, LOCKED_AT_START, MAX_EXTENSION, PCRS, PcrError};
pub use registers::{Extension, of_board, of_host, of_instance, of_machine};
pub use verify::{Code, MAX_DOCUMENT, Question, Refusal, Register, Statement, extended, verify};

#[cfg(test)]
mod tests;
