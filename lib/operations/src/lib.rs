//! The table of every operation that anyone has on a host: the one place where an operation is declared.
#![forbid(unsafe_code)]
