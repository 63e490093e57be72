//! The hypervisors, by instance.

use crate::FIRST_USER;
use ids::InstanceId;
use rustix::net::{SocketType, sockopt};
use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus},
};
use wire::{
    Fault,
    launcher::{Ended, MAX_PROCESSES, Reply, Request},
};

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the instance has a hypervisor already, or the end of one is not told yet: ask for ends first")]
    Exists,
    #[error("the instance has no hypervisor here")]
    Unknown,
    #[error("there are {MAX_PROCESSES} hypervisors already: end one")]
    Full,
    #[error("a start takes one connected SOCK_SEQPACKET socket")]
    Descriptors,
    #[error("the system did not start the hypervisor or did not tell of its end")]
    System(#[from] io::Error),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists => "instance.exists",
            Refusal::Unknown => "instance.unknown",
            Refusal::Full => "launcher.full",
            Refusal::Descriptors => "request.malformed",
            Refusal::System(error) => {
                tracing::error!(%error, "refused");
                "launcher.system"
            }
        };
        Self::new(code, refusal.to_string())
    }
}

struct Process {
    instance: InstanceId,
    child: Child,
}

/// What runs, and what has ended and is not told yet. A process's place here says which user it is.
pub(crate) struct Processes {
    places: Vec<Option<Process>>,
    image: OwnedFd,
    separate: bool,
}

impl Processes {
    /// None yet. `image` is what will be started, each as a user of its own if they are `separate`.
    pub(crate) fn new(image: OwnedFd, separate: bool) -> Self {
        let places = std::iter::repeat_with(|| None).take(MAX_PROCESSES).collect();
        Self { places, image, separate }
    }

    pub(crate) fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        let answer = match request {
            Request::Start { instance } => self.start(instance, fds),
            Request::End { instance } => self.end(&instance),
            Request::Ended => self.ended(),
        };
        answer.unwrap_or_else(|refusal| Reply::Fault(refusal.into()))
    }

    fn start(&mut self, instance: InstanceId, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        let [socket] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| Refusal::Descriptors)?;
        if sockopt::socket_type(&socket) != Ok(SocketType::SEQPACKET) {
            return Err(Refusal::Descriptors);
        }
        if self.places.iter().flatten().any(|process| process.instance == instance) {
            return Err(Refusal::Exists);
        }
        let free = (FIRST_USER..).zip(&mut self.places).find(|(_, place)| place.is_none());
        let (user, place) = free.ok_or(Refusal::Full)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.image.as_raw_fd()));
        command.arg0("azote-hypervisor").env_clear().envs(crate::level()).stdin(socket);
        if self.separate {
            command.uid(user).gid(user);
        }
        *place = Some(Process { instance, child: command.spawn()? });
        Ok(Reply::Done)
    }

    fn end(&mut self, instance: &InstanceId) -> Result<Reply, Refusal> {
        let of = |place: &&mut Option<Process>| place.as_ref().is_some_and(|it| it.instance == *instance);
        let place = self.places.iter_mut().find(of).ok_or(Refusal::Unknown)?;
        let Some(process) = place else { return Err(Refusal::Unknown) };
        // That it may be gone already is no error.
        process.child.kill()?;
        let status = process.child.wait()?;
        *place = None;
        Ok(Reply::Ended(told(instance.clone(), status)))
    }

    /// Those that are gone leave their places: their users are free when they are told.
    fn ended(&mut self) -> Result<Reply, Refusal> {
        let mut ended = Vec::new();
        for place in &mut self.places {
            let Some(process) = place else { continue };
            if let Some(status) = process.child.try_wait()? {
                ended.push(told(process.instance.clone(), status));
                *place = None;
            }
        }
        Ok(Reply::AllEnded { ended })
    }
}

fn told(instance: InstanceId, status: ExitStatus) -> Ended {
    Ended { instance, code: status.code(), signal: status.signal() }
}
