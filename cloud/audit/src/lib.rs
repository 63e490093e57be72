//! The audit service: pulls every host's log into a Merkle log that others can verify.
#![forbid(unsafe_code)]
