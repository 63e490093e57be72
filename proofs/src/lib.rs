//! Proofs over all inputs of the decision kernel and over all requests of the rights, and a model of tokens, quotas and
//! crashes that is explored to its end. Each proof must also find faults that are planted for it: one that finds none
//! proves nothing.
//!
//! What is proved is the code and the data that ship: the kernel of `decision`, the state machines of `decision` and
//! `tokens`, the policies of `rights`. Nothing of this crate ships, and it stands on no boundary; it trusts the two
//! releases of the solver only as far as they agree.
#![forbid(unsafe_code)]

pub mod kernel;
pub mod model;
pub mod report;
pub mod rights;
pub mod solver;
