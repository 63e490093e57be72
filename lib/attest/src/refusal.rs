use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal $message:literal;)*) => {
        /// Why evidence is not accepted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])* $name),* }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code, for programs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it means, and what to do.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $message),* }
            }
        }
    };
}

codes! {
    /// There is no policy, or none that names a release.
    PolicyEmpty = "attest.policy-empty"
        "there is no policy, or it names no release: make one with `azote attest policy`";
    /// The policy is not one of this format, or contradicts itself.
    PolicyMalformed = "attest.policy"
        "the policy is malformed, or names what its own root key has not signed: make it again";
    /// The evidence is not of this format.
    Malformed = "attest.malformed"
        "this is no evidence: take the whole answer of AttestHost";
    /// It answers another question.
    Nonce = "attest.nonce"
        "the evidence answers another nonce: ask the host again, with a nonce of your own";
    /// The TPM's attestation key did not sign this.
    Signature = "attest.signature"
        "the attestation key did not sign this quote";
    /// A certificate is not the authority's, or the certificates do not belong together.
    Certificate = "attest.certificate"
        "the host or its attestation key is not certified by the policy's authority";
    /// A certificate is out of its time.
    Expired = "attest.expired"
        "a certificate or the revocation list is not valid now: offer the host a new one, and look at the clocks";
    /// The host's certificate was revoked.
    Revoked = "attest.revoked"
        "the host's certificate was revoked: the host is retired";
    /// The host, its release or its configuration is of another environment.
    Environment = "attest.environment"
        "this is of another environment than the policy's";
    /// The log does not give the values that the TPM signed.
    Log = "attest.log"
        "replaying the event log does not give the registers that the TPM signed: the log is not this boot's, or altered";
    /// A register was never extended.
    PcrZero = "attest.pcr-zero"
        "a register was never extended: the host was not started by its boot ROM";
    /// No release that the policy takes.
    Release = "attest.release"
        "the host's release or configuration is not signed by the policy's root key, or is not one that the policy names";
    /// Something else was measured than the release says.
    Entry = "attest.entry"
        "what was measured is not what the release says";
    /// Older than what is required.
    Rollback = "attest.rollback"
        "the release or configuration is older than the policy requires: update the host";
    /// The TPM's counters went back.
    Clock = "attest.clock"
        "the TPM's counters are behind those seen before: the TPM was cloned or rolled back";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: the code, and the entry at fault where it is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Which entry of the event log, register, certificate or file it is about.
    pub entry: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "{entry}: {}", self.code.message()),
            None => f.write_str(self.code.message()),
        }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, entry: None }
    }
}

impl Code {
    /// With the entry that it is about.
    pub(crate) fn at(self, entry: impl fmt::Display) -> Refusal {
        Refusal { code: self, entry: Some(entry.to_string()) }
    }
}
