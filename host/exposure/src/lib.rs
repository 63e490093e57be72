//! What the processes of a host expose: for each one its listening sockets, executable mappings, capabilities, open
//! files, terminals, tracers, namespaces, and whether it could start a shell or a set-user-ID program. It compares
//! that with the sandbox files and names everything that they do not.
//!
//! It changes nothing, looks into no memory, and cannot read two things from outside: what a Landlock rule set or
//! a system-call filter says. It counts the filters; what is in them is what the process entered, which the
//! sandbox file says and `lib/sandbox` proves. It stands outside every boundary of the host and takes the kernel's
//! word for everything; the processes that it looks at are hostile, and choose the names that it reads.
//!
//! Another user's processes, and those that cannot be dumped, show little to anybody but root. What could not be
//! read is a finding of its own.
#![forbid(unsafe_code)]

mod expect;
mod facts;
mod judge;
pub mod parse;
mod programs;
mod read;
mod report;

pub use expect::{ExpectError, Expectation, Expectations, SANDBOXES, STAND_INS};
pub use facts::{Connection, Known, Open, Process, Survey};
pub use judge::{Allowances, Finding, judge};
pub use read::{ReadError, Scope, survey};
pub use report::Report;
