//! Proofs over all requests of the rights configuration and the decision kernel; models of tokens, quotas and crashes.
#![forbid(unsafe_code)]
