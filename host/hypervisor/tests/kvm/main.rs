//! Guests of a few bytes on this machine's KVM: what the processors, the loaders, the gate and the state do for real.
//! Where there is no KVM each test says that it was skipped.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod boot;
mod image;
mod moving;
mod platform;
mod process;
mod rig;
mod run;
