//! The launcher: one small process that starts the hypervisors of a host, ends them, and says how they ended. The
//! controller may start nothing itself; it decides, and asks this process. The launcher has one program to start, a
//! measured image that the controller hands it and that nobody can change; it knows no tenants and sees no content.
//!
//! It and its hypervisors live in namespaces of their own: no network, no other processes, no files but what
//! the kernel tells. It is the first process there, so nothing that it started outlives it. Each hypervisor is a user of
//! its own without any capability.
//!
//! Trust boundary: its hypervisors are hostile, being next to the guests, and have no way to talk to it. The
//! controller is trusted to say which instances there are; what it says is parsed like everything else. A launcher
//! that was taken over can start, end and become what its hypervisors are, and no more.
#![forbid(unsafe_code)]

mod namespaces;
mod processes;
mod stages;
mod user;

pub use namespaces::NamespaceError;
pub use stages::{StageError, inside, outside, policy};

use rustix::{
    io::fcntl_dupfd_cloexec,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

/// The sandbox file.
pub const SANDBOX: &str = include_str!("../../../sandbox/launcher.toml");
/// The sandbox file of what it starts, whose filter must fit into the launcher's.
const HYPERVISOR: &str = include_str!("../../../sandbox/hypervisor.toml");
/// The first user and group of hypervisors; there are [`wire::launcher::MAX_PROCESSES`], and the one after them is the
/// launcher's own. Above what distributions and user namespaces give out, below what the C interfaces misread.
pub const FIRST_USER: u32 = 0x4a5a_0000;

/// Starts a launcher from its image. `launcher` and `hypervisor` are programs in sealed memory. Gives the process, and
/// the socket over which it takes [`wire::launcher::Request`]s; it ends when that is closed, and everything that
/// it started with it. To be called before the caller gives up `execve`.
pub fn start(launcher: BorrowedFd<'_>, hypervisor: BorrowedFd<'_>) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = Command::new(format!("/proc/self/fd/{}", launcher.as_raw_fd()))
        .arg0("azote-launcher")
        .env_clear()
        .envs(level())
        .current_dir("/")
        .stdin(theirs)
        .stdout(fcntl_dupfd_cloexec(hypervisor, 3)?)
        .spawn()?;
    Ok((child, ours))
}

/// What is left of the environment: how much to log.
fn level() -> Option<(&'static str, std::ffi::OsString)> {
    std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level))
}
