//! The controller's requests: each gets one answer, and nothing is said without being asked.

use crate::{
    boot::{BootError, Source},
    instance::{Instance, InstanceError},
    state,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{mem::ManuallyDrop, os::fd::OwnedFd};
use wire::{
    Fault, Link, LinkError,
    hypervisor::{Create, Isolation, Reply, Request},
};

/// How often a machine is tended while nobody asks: cards that are gone.
const TEND: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The same while the guest has not read what the tenant typed.
const TEND_SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Why a request was refused, beside the machine's own reasons.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no machine here, or no longer: create one, or take one over, in a fresh process")]
    None,
    #[error("this process has its machine: start another process for another one")]
    Already,
    #[error("{0}")]
    Descriptors(&'static str),
    #[error("the machine was made without functions of the host's hardware: say so when it is created")]
    Passthrough,
    #[error("the process could not confine itself: {0}")]
    Confine(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::None => "instance.none",
            Self::Already => "instance.already",
            Self::Descriptors(_) => "request.descriptors",
            Self::Passthrough => "instance.no-passthrough",
            Self::Confine(_) => "instance.confinement",
            Self::Instance(error) => error.code(),
        }
    }
}

impl From<BootError> for Refusal {
    fn from(error: BootError) -> Self {
        Self::Instance(error.into())
    }
}

macro_rules! from_instance {
    ($($error:ty),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::Instance(error.into())
            }
        }
    )*};
}
from_instance!(crate::machine::MachineError, crate::console::ConsoleError);

/// What this process gives up when its machine is built and before its processors run, but for what the named uses need.
pub type Confine = Box<dyn FnOnce(&[&str]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>>;
/// The use of functions of the host's hardware.
const PASSTHROUGH: &str = "passthrough";

/// One controller and at most one instance.
pub struct Control {
    link: Link<Reply, Request>,
    instance: Option<Instance>,
    /// The instance is another process's now.
    moved: bool,
    isolation: Isolation,
    confine: Option<Confine>,
}

impl Control {
    /// Answers on `link`; `isolation` is told when asked for; `confine` is called once, when the machine is built.
    pub fn new(link: Link<Reply, Request>, isolation: Isolation, confine: Confine) -> Self {
        Self { link, isolation, instance: None, moved: false, confine: Some(confine) }
    }

    /// Serves until the controller says stop or is gone. The processors stand still then; their threads end with the
    /// process, which is to be left at once: joining them would take calls that it has given up.
    pub fn run(self) -> Result<(), LinkError> {
        let mut control = ManuallyDrop::new(self);
        let served = control.serve();
        control.pause();
        served
    }

    fn serve(&mut self) -> Result<(), LinkError> {
        loop {
            self.wait()?;
            let (request, fds) = match self.link.receive() {
                Ok(message) => message,
                Err(LinkError::Closed) => return Ok(()),
                Err(error @ (LinkError::Malformed(_) | LinkError::TooLong)) => {
                    self.fault("request.malformed", &error)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let stop = matches!(request, Request::Stop);
            if stop {
                // Before the answer: after it nothing of the machine moves.
                self.end();
                self.link.send(&Reply::Done, &[])?;
                return Ok(());
            }
            match self.answer(request, fds) {
                Ok(reply) => self.link.send(&reply, &[])?,
                Err(refusal) => self.fault(refusal.code(), &refusal)?,
            }
        }
    }

    /// The processors stand still for good. The kernel takes the machine apart when the process ends: to end its
    /// threads one by one would take calls that it has given up.
    fn end(&mut self) {
        if let Some(instance) = self.instance.take() {
            instance.pause();
            std::mem::forget(instance);
        }
    }

    /// Waits for a request and tends the machine meanwhile.
    fn wait(&self) -> Result<(), LinkError> {
        loop {
            let soon = self.instance.as_ref().map(|instance| if instance.tend() { TEND_SOON } else { TEND });
            match poll(&mut [PollFd::new(&self.link, PollFlags::IN)], soon.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn pause(&self) {
        if let Some(instance) = &self.instance {
            instance.pause();
        }
    }

    fn fault(&self, code: &str, error: &dyn std::error::Error) -> Result<(), LinkError> {
        tracing::warn!(code, %error, "refused");
        self.link.send(&Reply::Fault(Fault::new(code, error.to_string())), &[])
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        let machine = || self.instance.as_ref().filter(|_| !self.moved).ok_or(Refusal::None);
        match request {
            Request::Create(create) => return self.create(*create, fds),
            Request::Resume => machine()?.resume()?,
            Request::Pause => machine()?.pause(),
            Request::Attach { slot } => {
                let [socket] = take(fds, "give one descriptor: the function's connected socket")?;
                machine()?.machine().attach(slot, socket)?;
            }
            Request::Passthrough { slot } => {
                let descriptors = take(fds, "give two descriptors: the function's container and its own")?;
                let instance = machine()?;
                if !instance.create().passthrough {
                    return Err(Refusal::Passthrough);
                }
                instance.machine().pass_through(slot, descriptors)?;
            }
            Request::Detach { slot, force } => machine()?.machine().detach(slot, force)?,
            Request::PowerButton => machine()?.machine().press_power_button(),
            Request::Isolation => return Ok(Reply::Isolation(self.isolation.clone())),
            Request::Statistics => return Ok(Reply::Statistics(Box::new(machine()?.statistics()))),
            Request::ConsoleRead { after } => {
                let (next, sealed) = machine()?.console().read(after)?;
                return Ok(Reply::Console { next, sealed });
            }
            Request::ConsoleWrite { sealed } => machine()?.console().write(&sealed)?,
            Request::StateOut { copy } => {
                let [socket] = take(fds, "give one descriptor: a socket to the other process")?;
                state::send(machine()?, socket, copy)?;
                self.moved |= !copy;
            }
            Request::StateIn => {
                if self.instance.is_some() {
                    return Err(Refusal::Already);
                }
                let [kvm, socket] = take(fds, "give /dev/kvm and a socket to the other process")?;
                let instance = state::receive(kvm, socket)?;
                self.confine(instance.create().passthrough)?;
                self.instance = Some(instance);
            }
            Request::Stop => {}
        }
        Ok(Reply::Done)
    }

    fn create(&mut self, create: Create, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        if self.instance.is_some() {
            return Err(Refusal::Already);
        }
        let mut fds = fds.into_iter();
        let (Some(kvm), Some(kernel), initrd, None) = (fds.next(), fds.next(), fds.next(), fds.next()) else {
            return Err(Refusal::Descriptors(
                "give /dev/kvm, the kernel, and the initial RAM disk if there is one",
            ));
        };
        let kernel = Source::new("kernel", kernel)?;
        let initrd = initrd.map(|fd| Source::new("initial RAM disk", fd)).transpose()?;
        let (instance, measurement) = Instance::new(kvm, create, &kernel, initrd.as_ref())?;
        self.confine(instance.create().passthrough)?;
        self.instance = Some(instance);
        Ok(Reply::Created(measurement))
    }

    fn confine(&mut self, passthrough: bool) -> Result<(), Refusal> {
        let keep: &[&str] = if passthrough { &[PASSTHROUGH] } else { &[] };
        self.confine.take().map_or(Ok(()), |confine| confine(keep).map_err(Refusal::Confine))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end();
    }
}

fn take<const N: usize>(fds: Vec<OwnedFd>, wanted: &'static str) -> Result<[OwnedFd; N], Refusal> {
    fds.try_into().map_err(|_| Refusal::Descriptors(wanted))
}
