//! The rights configuration: who may do what on which resources, decided by Cedar.
#![forbid(unsafe_code)]
