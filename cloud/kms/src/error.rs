use crate::{MAX_CIPHERTEXT, MAX_DATA_KEY, MAX_GRANT_LIFE, MAX_GRANTS, MAX_IMPORT_LIFE, MAX_KEYS};
use seal::KeyError;

/// Why the key service does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// No such key.
    #[error("there is no such key")]
    NotFound,
    /// The caller may not do this, or not with this key.
    #[error("you may not do this: keys are their owner's, and only the control plane opens keys for hosts")]
    Denied,
    /// No ciphertext of this service, changed, under another context, or of another kind of key.
    #[error(
        "the ciphertext (at most {MAX_CIPHERTEXT} bytes) does not open as what this call needs, in this context"
    )]
    Ciphertext,
    /// The context lacks `aws:ebs:id`, or is not what the grant is for.
    #[error("the encryption context must name one volume as aws:ebs:id, the one that the grant is for")]
    Context,
    /// No such grant any more, not for this key, or a wrong token.
    #[error("there is no grant with this token for this key and operation: have the key's owner make one")]
    Grant,
    /// The grant's time is over.
    #[error("the grant has expired: have the key's owner make a new one")]
    GrantExpired,
    /// The card key is not certified, now, for the host that the grant names.
    #[error(
        "the card key must be certified, now, by the host that the grant names: read both certificates again"
    )]
    Recipient,
    /// The host has not shown, for a nonce of this service, that it is what it should be.
    #[error("the host does not get the key: {0}")]
    Evidence(#[from] attest::Refusal),
    /// The tenant's importer, and nobody else, may use this grant; or this is no such grant.
    #[error(
        "a grant for an importer is for the importer of the key's owner alone, by its own certificate, and for nothing else"
    )]
    Importer,
    /// Too many nonces.
    #[error("too many hosts are being asked: ask again in a minute")]
    Nonces,
    /// Out of bounds.
    #[error(
        "want 1 to {MAX_DATA_KEY} bytes in a data key; in a grant for a host the one operation Decrypt for 1 to \
         {MAX_GRANT_LIFE} seconds, in one for an importer Import for 1 to {MAX_IMPORT_LIFE} and no launch policy"
    )]
    Malformed,
    /// Too much of it.
    #[error("the limit is {MAX_KEYS} keys a tenant and {MAX_GRANTS} grants a key: retire some")]
    Limit,
    /// The store, the memory or the library failed. For the log, not for callers.
    #[error("{0}")]
    Internal(String),
}

impl KmsError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "kms.not-found",
            Self::Denied => "kms.denied",
            Self::Ciphertext => "kms.ciphertext",
            Self::Context => "kms.context",
            Self::Grant => "kms.grant",
            Self::GrantExpired => "kms.grant-expired",
            Self::Recipient => "kms.recipient",
            Self::Evidence(refusal) => refusal.code.as_str(),
            Self::Importer => "kms.importer",
            Self::Nonces => "kms.nonces",
            Self::Malformed => "kms.malformed",
            Self::Limit => "kms.limit",
            Self::Internal(_) => "internal",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Denied
            | Self::Grant
            | Self::GrantExpired
            | Self::Recipient
            | Self::Importer
            | Self::Evidence(_) => 403,
            Self::Ciphertext | Self::Context | Self::Malformed => 400,
            Self::Limit | Self::Nonces => 429,
            Self::Internal(_) => 500,
        }
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<KeyError> for KmsError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::PublicKey => Self::Recipient,
            KeyError::HalvesEqual => Self::Ciphertext,
            other => Self::internal(other),
        }
    }
}

impl From<seal::LockError> for KmsError {
    fn from(error: seal::LockError) -> Self {
        Self::internal(error)
    }
}

macro_rules! internal {
    ($($error:ty),*) => {
        $(impl From<$error> for KmsError {
            fn from(error: $error) -> Self {
                Self::internal(error)
            }
        })*
    };
}

internal!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    serde_json::Error
);
