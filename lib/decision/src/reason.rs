/// Why a call is refused. The order is the order in which the reasons are looked for: the first that applies is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The token's times contradict each other, or it lives for too long.
    Life,
    /// The token is for another host.
    Audience,
    /// The token is not valid yet.
    NotYetValid,
    /// The token has expired.
    Expired,
    /// The caller did not show the key that the token names.
    Holder,
    /// The proof of possession is too old, or was seen before.
    Fresh,
    /// The token does not name the operation.
    Operation,
    /// The token does not name a resource of the call.
    Resource,
    /// The call would touch what is a customer's.
    Content,
    /// Not so much is left of the quota.
    Quota,
    /// The intent is not recorded.
    Recorded,
}

impl Reason {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Life,
        Self::Audience,
        Self::NotYetValid,
        Self::Expired,
        Self::Holder,
        Self::Fresh,
        Self::Operation,
        Self::Resource,
        Self::Content,
        Self::Quota,
        Self::Recorded,
    ];

    /// Its number in the kernel, from 1; 0 stands for no reason at all.
    pub const fn number(self) -> u64 {
        self as u64 + 1
    }

    /// The reason with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// The stable code, for programs and logs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Life => "token.malformed",
            Self::Audience => "token.audience",
            Self::NotYetValid => "token.not-yet-valid",
            Self::Expired => "token.expired",
            Self::Holder => "proof.signature",
            Self::Fresh => "proof.replayed",
            Self::Operation => "token.api",
            Self::Resource => "token.resource",
            Self::Content => "content.forbidden",
            Self::Quota => "token.used-up",
            Self::Recorded => "log.unavailable",
        }
    }
}
