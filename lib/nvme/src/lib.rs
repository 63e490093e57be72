//! An NVMe 1.4 controller as a state machine without I/O, and a small host driver for it. The controller shows one
//! namespace as EC2 shows an EBS volume; it moves no data, keeps no keys, knows no sockets and no interrupts of its own:
//! its shell gives it memory, time and a [`Backend`], and fires the vectors that it names. It stands on the boundary to the
//! guest: every register value, queue entry, doorbell, PRP entry and byte of shared memory is the guest's word and is
//! checked before use. The driver stands on the other side and trusts the controller as little.
//!
//! # How a shell uses it
//!
//! - BAR0 accesses go to [`Controller::read`] and [`Controller::write`]; the [`Effect`] says what to do next. The MSI-X table
//!   and pending bits in the same BAR ([`spec::registers::MSIX_TABLE`]) are the PCI side's.
//! - [`Controller::poll`] fetches commands, executes admin commands, and hands I/O to the backend. Each request handed out is
//!   given back with [`Controller::complete`], also after a reset: until then a read may still write to guest memory, so
//!   CSTS.RDY stays set, and a shell answers a function reset only when nothing is in flight.
//! - After a batch of either, [`Controller::take_interrupts`] names the vectors to fire.
//! - Before it sleeps, a shell calls [`Controller::arm`].
//!
//! # What is there
//!
//! - Registers of 1.4 without CMB, PMR, boot partitions and NVM subsystem reset; 4 KiB pages; contiguous queues of up to
//!   1024 entries; round robin; normal and abrupt shutdown (both flush); INTMS and INTMC read as zero (there is only MSI-X).
//! - Admin: Identify (CNS 0 to 3), creation and deletion of queues, Get Log Page (errors, SMART, firmware slot, changed
//!   namespaces, commands supported, EBS statistics D0h), Get and Set Features ([`spec::Feature`]), Abort, Asynchronous Event
//!   Request, Doorbell Buffer Config.
//! - I/O: Read, Write, Flush, Write Zeroes, Dataset Management. FUA, and writes while the guest has turned the write cache
//!   off, are [`Request::durable`]. Deallocation is accepted and not passed on: the storage side must not learn which blocks
//!   a guest uses. Up to 256 KiB for each command, by PRP entries and lists.
//! - Abort drops commands that were not fetched yet, asynchronous event requests, and what [`Backend::cancel`] can drop; for
//!   all others it says that the command was not aborted.
//! - Events: wrong doorbells, and a changed namespace size. There is no sensor and no wear, so no SMART event ever comes;
//!   the temperature reads 0 (not measured).
//! - Interrupt coalescing is kept as a setting only: vectors fire once for each batch anyway.
//!
//! # What is refused, and how
//!
//! | asked for | answer |
//! |---|---|
//! | any other admin command: firmware, namespace management and attachment, self-test, directives, virtualization, NVMe-MI, Keep Alive, Format, Security Send and Receive, Sanitize, Get LBA Status, fabrics | Invalid Command Opcode |
//! | any other I/O command: Compare, Verify, Write Uncorrectable, reservations, vendor commands | Invalid Command Opcode |
//! | fused commands; SGLs (PSDT not 0); a directive in Write; more than 256 KiB; queues that are not contiguous | Invalid Field |
//! | Identify with another CNS (I/O command sets, NVM sets, controller lists, allocated namespaces) | Invalid Field |
//! | a namespace other than 1 | Invalid Namespace or Format |
//! | other log pages (self-test, telemetry, reservation, sanitize, …) | Invalid Log Page |
//! | other features (LBA range types, host memory buffer, power state transitions, keep alive, …); the write cache where there is none | Invalid Field |
//! | saving a feature | Feature Identifier Not Saveable |
//! | a page size, command set or arbitration other than those above, or an admin queue of one entry, at enable | CSTS.CFS |
//! | queue memory that cannot be reached | CSTS.CFS |
//! | data or list memory that cannot be reached | Data Transfer Error |
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
