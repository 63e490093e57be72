//! Confines a process to what its sandbox file names. The file (`sandbox/<process>.toml`) is compiled into
//! the binary; the process enters it before it touches input. It stands on the boundary between a process
//! that hostile input may have taken over and the rest of the machine. It does not make namespaces, users
//! or cgroups, and it cannot take back descriptors that are already open.
//!
//! ```toml
//! [process]
//! name = "azote-kms"
//! landlock = "required"            # or "best-effort": go on where the kernel has none
//!
//! [[file]]                         # everything else in the file system is denied
//! path = "{state}"                 # a {variable} is given to `enter`; the path must exist
//! access = "write"                 # read | write (includes read) | execute (includes read)
//! why = "wrapped keys"
//!
//! [[socket]]                       # TCP that is not named is denied
//! kind = "tcp-listen"              # tcp-listen | tcp-connect
//! ports = [8443]                   # without it: any port
//! why = "the API"
//!
//! [[syscall]]                      # the process ends at any other: its parent sees which kind (Violation)
//! names = ["read", "write"]
//! why = "I/O on what is open"
//!
//! [[syscall]]                      # several rules for one call: any of them is enough
//! names = ["mmap"]
//! args = [{ index = 2, op = "masked-eq", mask = 0x4, value = 0 }]   # all must hold
//! why = "memory, never executable"
//!
//! [[syscall]]                      # not made: it fails with EACCES, ENOENT or ENOSYS (ZERO: it says 0), and the process goes on
//! names = ["clone3"]
//! fails = "ENOSYS"
//! why = "the C library then uses clone, whose flags a filter can see"
//!
//! [[syscall]]                      # until the process calls `narrow`
//! names = ["openat"]
//! early = true
//! why = "what it reads before it does its work"
//!
//! [[syscall]]                      # likewise, unless the process says when it calls `narrow` that it keeps them
//! names = ["pwrite64"]
//! kept_for = "passthrough"
//! why = "functions of the host's hardware"
//!
//! [[syscall]]                      # only in builds with debug assertions
//! names = ["fcntl"]
//! debug = true
//! why = "a check of the standard library's"
//!
//! [[listen]]                       # what it listens on, and holds open, when it enters: nothing here makes or takes
//! at = "{installation}/run/chip"   # it away, but a survey of the host fails on anything that is not named
//! why = "the controller"
//!
//! [[capability]]                   # all others are given up
//! name = "KILL"
//! why = "children are other users"
//!
//! [[hold]]                         # `*` stands for anything without a slash, `**` at the end for anything
//! path = "{installation}/kms/*"
//! access = "write"
//! why = "the store"
//! ```
//!
//! `op` is one of `eq ne lt le gt ge masked-eq`; values are 64 bits wide unless `width = 32`. Abstract Unix
//! sockets and signals to processes outside are denied wherever Landlock can (ABI 6). Landlock does not
//! govern connecting to a Unix socket at a path, nor what sending to an address does (a datagram; a TCP connection
//! by fast open): leave `connect` out of the calls, and let `sendto` name no address (argument 4 is 0). Filters are inherited: start children before entering, or permit what they need ([`Policy::starting`]).
#![forbid(unsafe_code)]

mod filter;
mod paths;
mod policy;
mod privileges;
mod violation;

pub use policy::{
    Access, Capability, Comparison, Failure, File, Landlock, Listen, Operator, Policy, Process, Socket,
    SocketKind, Syscall, Width,
};

pub use violation::Violation;

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};

/// Why a process could not be confined. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The file is not a policy.
    #[error("the sandbox file is wrong: {0}")]
    Policy(String),
    /// A path names a variable that the process did not give.
    #[error("the sandbox file wants a path for {{{0}}}, which the process does not give")]
    Variable(String),
    /// A path that must be there is not.
    #[error("the sandbox cannot open {path}: {reason}")]
    Path {
        /// The path, variables filled in.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The kernel lacks something that the policy requires.
    #[error("this kernel has no {0}: boot one that has, or say best-effort in the sandbox file")]
    Missing(&'static str),
    /// Landlock confines a thread, not a process, so there must be one only.
    #[error("enter the sandbox before starting threads: there are {0} now")]
    Threads(usize),
    /// The system refused a step.
    #[error("the system refused {step}: {reason}")]
    System {
        /// Which step.
        step: &'static str,
        /// What the system said.
        reason: String,
    },
}

fn system(step: &'static str) -> impl Fn(rustix::io::Errno) -> SandboxError {
    move |reason| SandboxError::System { step, reason: reason.to_string() }
}

/// Keeps what this process holds out of core dumps and out of other processes' reach. [`Policy::enter`] does it
/// too: call this first in `main` where keys are read before that.
pub fn undumpable() -> Result<(), SandboxError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(system("no core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(system("not dumpable"))
}

impl Policy {
    /// Confines this process for good. `variables` fills the `{names}` in paths. Call it in `main`, before
    /// any thread is started and before any input is read.
    pub fn enter(&self, variables: &[(&str, &std::path::Path)]) -> Result<(), SandboxError> {
        let tasks = "/proc/self/task";
        let threads = std::fs::read_dir(tasks).map(Iterator::count);
        match threads.map_err(|e| SandboxError::Path { path: tasks.to_owned(), reason: e.to_string() })? {
            1 => {}
            threads => return Err(SandboxError::Threads(threads)),
        }
        let programs = filter::compile(self)?;
        violation::install()?;
        undumpable()?;
        set_no_new_privs(true).map_err(system("no new privileges"))?;
        privileges::keep(privileges::kept(self)?)?;
        let landlock = paths::restrict(self, variables)?;
        tracing::debug!(process = self.process.name, ?landlock, "confined");
        apply(&programs)
    }

    /// Gives up what is for early use only, and what is kept for anything else than `keep`, in all threads. Once, after
    /// [`Policy::enter`], whose filters stay; what it needs for that are `seccomp`, and `prctl` for
    /// `PR_SET_NO_NEW_PRIVS`, as early calls.
    pub fn narrow(&self, keep: &[&str]) -> Result<(), SandboxError> {
        self.narrowing(keep)?.apply()
    }

    /// [`Policy::narrow`], ready to be done: making it takes memory that may be given back before.
    pub fn narrowing(&self, keep: &[&str]) -> Result<Narrowing, SandboxError> {
        let mut programs = filter::compile(&self.narrowed(keep))?;
        Ok(Narrowing(programs.split_off(programs.len().saturating_sub(filter::NARROWED))))
    }
}

/// What [`Policy::narrow`] does.
pub struct Narrowing(Vec<seccompiler::BpfProgram>);

impl Narrowing {
    /// Does it.
    pub fn apply(self) -> Result<(), SandboxError> {
        apply(&self.0)
    }
}

fn apply(programs: &[seccompiler::BpfProgram]) -> Result<(), SandboxError> {
    programs
        .iter()
        .try_for_each(|p| seccompiler::apply_filter_all_threads(p))
        .map_err(|error| SandboxError::System { step: "the system-call filter", reason: error.to_string() })
}
