//! Proofs over all inputs of the decision kernels of door and security chip and over all requests of the rights, and
//! models of tokens, quotas and crashes, and of the security chip, that are explored to their end. Each proof must also find faults that are planted for it: one that finds none
//! proves nothing.
//!
//! What is proved is the code and the data that ship: the kernels of `decision` and `chip_core`, the state machines of
//! `decision`, `tokens` and `chip_core`, the policies of `rights`. Nothing of this crate ships, and it stands on no boundary; it trusts the two
//! releases of the solver only as far as they agree.
#![forbid(unsafe_code)]

pub mod chip;
pub mod kernel;
pub mod model;
pub mod report;
pub mod rights;
pub mod solver;
