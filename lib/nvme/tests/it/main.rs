//! The driver against the controller, both in one thread, with a disk in memory.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod admin;
mod common;
mod fuzz;
mod hostile;
mod io;
mod queues;
mod refusals;
mod shadow;
mod start;
