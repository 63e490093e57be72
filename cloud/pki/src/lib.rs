//! Issues the identities of an environment
