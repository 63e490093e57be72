//! An NVMe 1.4 controller as a state machine, and a small host driver for tests, benchmarks and imports.
#![forbid(unsafe_code)]

mod admin;
mod config;
mod controller;
pub mod driver;
mod events;
mod features;
mod identify;
mod io;
mod logs;
pub mod memory;
mod poll;
mod prp;
mod queues;
mod registers;
mod request;
mod shadow;
mod slots;
pub mod spec;
mod stats;

pub use config::{Config, ConfigError};
pub use controller::{Controller, Counters, Effect, QueueState, Shutdown, State, Vectors};
pub use memory::{Memory, MemoryFault, Ram};
pub use request::{Backend, MAX_SPANS, MAX_TRANSFER, Operation, Request, Span, Tag};
