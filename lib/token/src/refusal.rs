use decision::Reason;

/// Why a request with this token, or without one, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No `Authorization: Bearer` header.
    #[error("no token: send one from the token service as `Authorization: Bearer`")]
    TokenMissing,
    /// Not a token of this system, or beyond its bounds.
    #[error("this is no token of this system: get one from the token service")]
    TokenMalformed,
    /// Signed by none of the keys that this host trusts.
    #[error("the token's signature is not by a token service that this host trusts")]
    TokenSignature,
    /// Past its expiry.
    #[error("the token has expired: get a new one")]
    TokenExpired,
    /// Before its not-before time.
    #[error("the token is not valid yet: check the clocks of the caller and the token service")]
    TokenNotYetValid,
    /// For another host.
    #[error("the token is for another host: get one for this host")]
    TokenAudience,
    /// The token does not name this API.
    #[error("the token does not name this API: get one that does")]
    TokenApi,
    /// The token does not name a resource of the request.
    #[error("the token does not name every resource of the request: get one that does")]
    TokenResource,
    /// As many calls as the token allows were made.
    #[error("the token has been used as often as it allows: get a new one")]
    TokenUsedUp,
    /// No proof header.
    #[error("no proof of possession: sign the request with the token's key in `Azote-Proof`")]
    ProofMissing,
    /// Not a proof of this system.
    #[error("this is no proof of possession of this system")]
    ProofMalformed,
    /// Not signed by the token's holder.
    #[error("the proof is not signed by the key that the token names")]
    ProofSignature,
    /// Too old, too far ahead, or from before this host started.
    #[error("the proof is too old or from the future: make one for each request, and check the clock")]
    ProofStale,
    /// Seen before.
    #[error("the proof has been used: make a new one for each request")]
    ProofReplayed,
    /// For another request or another token.
    #[error("the proof is for another request or another token")]
    ProofMismatch,
    /// More proofs in the last minute than the host remembers.
    #[error("too many requests in the last minute: wait, then try again")]
    ProofOverload,
    /// Not a signed key set.
    #[error("this is no signed set of the token service's keys")]
    KeysMalformed,
    /// Signed by none of the keys that this host trusts.
    #[error("the key set is not signed by a key that this host trusts now")]
    KeysSignature,
    /// Not newer than the set that this host has.
    #[error("the key set is not newer than the one that this host has")]
    KeysStale,
}

impl Refusal {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::TokenSignature,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenAudience,
        Self::TokenApi,
        Self::TokenResource,
        Self::TokenUsedUp,
        Self::ProofMissing,
        Self::ProofMalformed,
        Self::ProofSignature,
        Self::ProofStale,
        Self::ProofReplayed,
        Self::ProofMismatch,
        Self::ProofOverload,
        Self::KeysMalformed,
        Self::KeysSignature,
        Self::KeysStale,
    ];

    /// The stable code, for programs and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::TokenMissing => "token.missing",
            Self::TokenMalformed => "token.malformed",
            Self::TokenSignature => "token.signature",
            Self::TokenExpired => "token.expired",
            Self::TokenNotYetValid => "token.not-yet-valid",
            Self::TokenAudience => "token.audience",
            Self::TokenApi => "token.api",
            Self::TokenResource => "token.resource",
            Self::TokenUsedUp => "token.used-up",
            Self::ProofMissing => "proof.missing",
            Self::ProofMalformed => "proof.malformed",
            Self::ProofSignature => "proof.signature",
            Self::ProofStale => "proof.stale",
            Self::ProofReplayed => "proof.replayed",
            Self::ProofMismatch => "proof.mismatch",
            Self::ProofOverload => "proof.overload",
            Self::KeysMalformed => "keys.malformed",
            Self::KeysSignature => "keys.signature",
            Self::KeysStale => "keys.stale",
        }
    }

    /// The HTTP status that goes with it: 401 if another token or proof would help, 403 if the rights
    /// are missing, 429 if waiting would.
    pub fn status(self) -> u16 {
        match self {
            Self::TokenApi | Self::TokenResource | Self::TokenAudience => 403,
            Self::KeysSignature => 403,
            Self::KeysMalformed => 400,
            Self::KeysStale => 409,
            Self::ProofOverload => 429,
            _ => 401,
        }
    }
}

/// What the decision refuses, in this crate's words.
impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Audience => Self::TokenAudience,
            Reason::NotYetValid => Self::TokenNotYetValid,
            Reason::Expired => Self::TokenExpired,
            Reason::Holder => Self::ProofSignature,
            Reason::Fresh => Self::ProofReplayed,
            Reason::Operation => Self::TokenApi,
            Reason::Resource | Reason::Content => Self::TokenResource,
            Reason::Quota => Self::TokenUsedUp,
            Reason::Life | Reason::Recorded => Self::TokenMalformed,
        }
    }
}
