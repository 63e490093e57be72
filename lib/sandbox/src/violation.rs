//! How a parent learns what its child died of.

use crate::SandboxError;
use rustix::process::Signal;
use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, atomic::AtomicBool},
};

/// Exit status of a process that tried to reach out and may not.
const OUTBOUND: i32 = 90;

/// A call that a confined process made and may not make. It was not carried out, and the process is gone.
///
/// The kernel kills at most calls, with SIGSYS. At a call that would reach out it raises SIGSYS instead, whose
/// handler ends the process with an exit status that says so; where the handler cannot run, SIGSYS kills. What
/// a process tells of itself is a hint for an alarm, no evidence: one that was taken over can end with any
/// status, or overwrite what its handler reads and go on. Even then no such call is ever carried out, and no
/// process can replace the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A connection, a datagram, a listening socket.
    Outbound,
    /// Something else.
    Other,
}

impl Violation {
    /// What ended a process, if it was its sandbox.
    pub fn of(status: ExitStatus) -> Option<Self> {
        Self::from_end(status.code(), status.signal())
    }

    /// The same, from the exit status or else the signal.
    pub fn from_end(code: Option<i32>, signal: Option<i32>) -> Option<Self> {
        if code == Some(OUTBOUND) {
            Some(Self::Outbound)
        } else {
            (signal == Some(Signal::SYS.as_raw())).then_some(Self::Other)
        }
    }

    /// Stable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Outbound => "sandbox.outbound",
            Self::Other => "sandbox.killed",
        }
    }
}

/// From here on a trapped call ends the process.
pub(crate) fn install() -> Result<(), SandboxError> {
    let always = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(Signal::SYS.as_raw(), OUTBOUND, always)
        .map(drop)
        .map_err(|error| SandboxError::System { step: "the handler of SIGSYS", reason: error.to_string() })
}
