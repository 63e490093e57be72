//! The two halves of the process: one outside of the namespaces that only waits, and one inside that is the first
//! process there and does the work.

use crate::{
    HYPERVISOR, NamespaceError,
    namespaces::{self, Users},
    processes::Processes,
    user,
};
use rustix::{
    fs::{OFlags, SealFlags, fcntl_get_seals, open},
    io::Errno,
    net::{SocketType, sockopt},
    process::{Resource, Rlimit, Signal, getpid, getrlimit, set_parent_process_death_signal, setrlimit},
    stdio::dup2_stdout,
};
use sandbox::{Landlock, Policy, SandboxError};
use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};
use wire::{Fault, Link, LinkError, launcher::Reply};

/// Open files of a hypervisor: eventfds of some dozens of functions, and its processors.
const FILES: u64 = 4096;

/// Why the launcher could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Not started as the controller does it.
    #[error(
        "standard input is no SOCK_SEQPACKET socket, standard output is no program in sealed memory, or there are \
         arguments: let the controller start this"
    )]
    Usage,
    /// No namespaces.
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    /// Not confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The controller's socket.
    #[error("the control socket: {0}")]
    Control(#[from] LinkError),
    /// The other half.
    #[error("the launcher could not start itself in its namespaces: {0}")]
    Spawn(#[from] io::Error),
    /// Something else that the system refused.
    #[error("the system refused {0}: {1}")]
    System(&'static str, Errno),
    /// The half inside has ended otherwise than by an end of file.
    #[error("the half that starts hypervisors ended: {0}")]
    Inside(std::process::ExitStatus),
}

impl StageError {
    /// 2 for wrong usage, 1 for everything else.
    pub fn exit_status(&self) -> u8 {
        if matches!(self, Self::Usage) { 2 } else { 1 }
    }
}

fn system(step: &'static str) -> impl Fn(Errno) -> StageError {
    move |errno| StageError::System(step, errno)
}

/// The half outside: makes the namespaces, starts the other half, gives everything up and waits.
pub fn outside(mut policy: Policy) -> Result<(), StageError> {
    let (_, _) = given()?;
    let users = namespaces::unshare()?;
    let mut inside = Command::new("/proc/self/exe")
        .arg0("azote-launcher")
        .arg("--inside")
        .env_clear()
        .envs(crate::level())
        .spawn()?;
    if users == Users::All {
        user::own().map_err(system("its own user"))?;
    }
    waiting(&mut policy);
    policy.enter(&[])?;
    let status = inside.wait()?;
    if status.success() { Ok(()) } else { Err(StageError::Inside(status)) }
}

/// What waiting, telling how it ended and leaving take. Landlock would keep the signal of its end from the other half.
fn waiting(policy: &mut Policy) {
    const CALLS: [&str; 5] = ["wait4", "write", "munmap", "sigaltstack", "exit_group"];
    policy.capabilities.clear();
    policy.process.landlock = Landlock::Unneeded;
    policy.syscalls.retain_mut(|call| {
        call.names.retain(|name| call.fails.is_some() || CALLS.contains(&name.as_str()));
        !call.names.is_empty()
    });
}

/// The half inside: serves the controller until it closes its end.
pub fn inside(policy: &Policy) -> Result<(), StageError> {
    if !getpid().is_init() {
        return Err(StageError::Usage);
    }
    let (control, image) = given()?;
    let nowhere = open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    nowhere.and_then(dup2_stdout).map_err(system("an empty standard output"))?;
    namespaces::fill()?;
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, FILES)] {
        limit(resource, most).map_err(system("limits"))?;
    }
    lift_locked().map_err(system("limits"))?;
    let separate = match user::own() {
        Ok(()) => true,
        // Not one of this namespace.
        Err(Errno::INVAL) => false,
        Err(errno) => return Err(system("its own user")(errno)),
    };
    if !separate {
        tracing::warn!("not started by root: all hypervisors are the same user as the launcher");
    }
    // Changing the user forgets it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system("an end with its parent"))?;
    policy.enter(&[])?;
    serve(&Link::new(control), &mut Processes::new(image, separate))
}

/// The controller's socket and the hypervisor's image.
fn given() -> Result<(OwnedFd, OwnedFd), StageError> {
    let (input, output) = (io::stdin(), io::stdout());
    let sealed = fcntl_get_seals(&output).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if sockopt::socket_type(&input) != Ok(SocketType::SEQPACKET) || !sealed {
        return Err(StageError::Usage);
    }
    Ok((input.as_fd().try_clone_to_owned()?, output.as_fd().try_clone_to_owned()?))
}

/// What the launcher may do by its sandbox file `own`, and what hypervisors may do, who inherit its filter.
pub fn policy(own: &str) -> Result<Policy, SandboxError> {
    Ok(Policy::parse(own)?.starting(&Policy::parse(HYPERVISOR)?))
}

fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// A hypervisor that may have functions of the host's hardware locks guest memory for them; any other gives up all calls
/// that lock memory before its guest runs. Without privilege the limit stays as it is.
fn lift_locked() -> Result<(), Errno> {
    match setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        Err(Errno::PERM) => Ok(()),
        lifted => lifted,
    }
}

fn serve(
    control: &Link<Reply, wire::launcher::Request>,
    processes: &mut Processes,
) -> Result<(), StageError> {
    loop {
        let reply = match control.receive() {
            Ok((request, fds)) => processes.answer(request, fds),
            Err(LinkError::Closed) => return Ok(()),
            Err(error @ (LinkError::Malformed(_) | LinkError::TooLong)) => {
                Reply::Fault(Fault::new("request.malformed", error.to_string()))
            }
            Err(error) => return Err(error.into()),
        };
        match control.send(&reply, &[]) {
            Ok(()) => {}
            Err(LinkError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
