//! Controller to attestation card. Who an instance is and what it started from is the controller's word; the card signs
//! it, and what its guest adds.

use ids::InstanceId;
use serde::{Deserialize, Serialize};

/// Most instances of one card.
pub const MAX_INSTANCES: usize = 256;
/// Most extensions in one [`Attach`].
pub const MAX_EXTENSIONS: usize = 128;

/// What the controller asks of an attestation card.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who are you? Answered with [`Reply::Hello`].
    Hello,
    /// Have a function for an instance. With a descriptor, the *listening* Unix stream socket on which it speaks
    /// vfio-user, it is there at once; otherwise it waits for [`Request::Connect`]. Each connection is a start of the
    /// instance: its registers are as in [`Attach::registers`] then. Answered with [`Reply::Done`].
    Attach(Attach),
    /// The instance starts. Descriptor: a *connected* Unix stream socket whose other end speaks vfio-user. Whoever was
    /// connected before is let go. Answered with [`Reply::Done`].
    Connect {
        /// Which instance.
        instance: InstanceId,
    },
    /// Certify documents of an instance by another chain from now on.
    Certify {
        /// Which instance.
        instance: InstanceId,
        /// See [`Attach::chain`].
        chain: Vec<Certificate>,
    },
    /// Forget an instance. Answered with [`Reply::Done`] when nothing of it is left.
    Detach {
        /// Which instance.
        instance: InstanceId,
    },
    /// Numbers only. Answered with [`Reply::Status`].
    Status,
}

/// The parameters of [`Request::Attach`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Which instance.
    pub instance: InstanceId,
    /// What its registers are extended by at each start, in this order; at most [`MAX_EXTENSIONS`].
    pub registers: Vec<Extension>,
    /// The instance's certificate for the card's key, and all above it; empty: there is none yet, and the guest gets no
    /// documents until [`Request::Certify`].
    pub chain: Vec<Certificate>,
}

/// One extension of one register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// 0 to 15.
    pub register: u16,
    /// By what, at most 512 bytes.
    #[serde(with = "crate::base64_bytes")]
    pub data: Vec<u8>,
}

/// X.509, DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Certificate(#[serde(with = "crate::base64_bytes")] pub Vec<u8>);

/// What an attestation card answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// The card's public key, made at its start.
    Hello {
        /// P-384, an uncompressed point (97 bytes).
        #[serde(with = "crate::base64_bytes")]
        public_key: Vec<u8>,
    },
    /// Done.
    Done,
    /// The instances.
    Status {
        /// One entry each.
        instances: Vec<InstanceStatus>,
    },
    /// Refused or failed.
    Fault(crate::Fault),
}

/// State of one instance's function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceStatus {
    /// Which instance.
    pub instance: InstanceId,
    /// Somebody is connected to the function.
    pub connected: bool,
    /// There is a chain for documents.
    pub certified: bool,
    /// Requests answered since it was attached.
    pub requests: u64,
}
