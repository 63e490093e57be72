//! An NVMe 1.4 controller as a state machine, and a small host driver for tests, benchmarks and imports.
#![forbid(unsafe_code)]

mod config;
mod controller;
pub mod memory;
mod request;
pub mod spec;

pub use config::{Config, ConfigError};
pub use controller::{Controller, Effect, QueueState, Shutdown, State, Vectors};
pub use memory::{Memory, MemoryFault, Ram};
pub use request::{Backend, MAX_SPANS, MAX_TRANSFER, Operation, Request, Span, Tag};
