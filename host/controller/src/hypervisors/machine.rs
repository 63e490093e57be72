//! One hypervisor process, as the controller uses it.

use crate::{
    Refusal,
    peer::{HypervisorSide, Peer, unexpected},
};
use ids::Slot;
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};
use vfio::Descriptors;
use wire::{
    Link,
    hypervisor::{Create, Isolation, Measurement, Reply, Request, State, Statistics},
};

/// How long a machine may take to stand still, or to tell its numbers. Others wait for their turn meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// A hypervisor's private socket.
#[derive(Debug)]
pub struct Machine(Peer<HypervisorSide>);

impl Machine {
    /// Takes the socket of a process that has just been started.
    pub fn new(link: Link<Request, Reply>) -> Result<Self, Refusal> {
        Peer::new(link).map(Self)
    }

    /// Builds the machine, paused. `fds` are `/dev/kvm`, the kernel, and the initial RAM disk if there is one.
    pub fn create(&mut self, create: Create, fds: &[BorrowedFd<'_>]) -> Result<Measurement, Refusal> {
        match self.0.call(&Request::Create(Box::new(create)), fds)? {
            Reply::Created(measurement) => Ok(measurement),
            _ => Err(unexpected::<HypervisorSide>()),
        }
    }

    /// Puts a function of the host's hardware into a slot, which locks the guest's memory.
    pub fn pass_through(&mut self, slot: u8, function: &Descriptors) -> Result<(), Refusal> {
        let fds = [function.container.as_fd(), function.device.as_fd()];
        self.done(&Request::Passthrough { slot }, &fds)
    }

    /// It is built: from here on nothing that is asked may take long.
    pub fn built(&mut self) -> Result<(), Refusal> {
        self.0.patience(PATIENCE)
    }

    /// Lets the processors run, or makes them stand still.
    pub fn run(&mut self, run: bool) -> Result<(), Refusal> {
        self.done(if run { &Request::Resume } else { &Request::Pause }, &[])
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) -> Result<(), Refusal> {
        self.done(&Request::PowerButton, &[])
    }

    /// Ends the machine and its process.
    pub fn stop(&mut self) -> Result<(), Refusal> {
        self.done(&Request::Stop, &[])
    }

    /// Puts the function at the other end of a connected socket into a slot.
    pub fn attach(&mut self, slot: Slot, function: BorrowedFd<'_>) -> Result<(), Refusal> {
        self.done(&Request::Attach { slot: slot.into() }, &[function])
    }

    /// Asks the guest to give a function back, or takes it away at once.
    pub fn detach(&mut self, slot: Slot, force: bool) -> Result<(), Refusal> {
        self.done(&Request::Detach { slot: slot.into(), force }, &[])
    }

    /// Numbers.
    pub fn statistics(&mut self) -> Result<Statistics, Refusal> {
        match self.0.call(&Request::Statistics, &[])? {
            Reply::Statistics(statistics) => Ok(*statistics),
            _ => Err(unexpected::<HypervisorSide>()),
        }
    }

    /// Whether its processors run, as far as it can be asked.
    pub fn state(&mut self) -> Result<State, Refusal> {
        self.statistics().map(|statistics| statistics.state)
    }

    /// What keeps tenants apart here.
    pub fn isolation(&mut self) -> Result<Isolation, Refusal> {
        match self.0.call(&Request::Isolation, &[])? {
            Reply::Isolation(isolation) => Ok(isolation),
            _ => Err(unexpected::<HypervisorSide>()),
        }
    }

    /// Console output from byte `after` on, sealed to the tenant, and where the next read goes on.
    pub fn read_console(&mut self, after: u64) -> Result<(u64, Vec<u8>), Refusal> {
        match self.0.call(&Request::ConsoleRead { after }, &[])? {
            Reply::Console { next, sealed } => Ok((next, sealed)),
            _ => Err(unexpected::<HypervisorSide>()),
        }
    }

    /// Console input, sealed by the tenant.
    pub fn write_console(&mut self, sealed: Vec<u8>) -> Result<(), Refusal> {
        self.done(&Request::ConsoleWrite { sealed }, &[])
    }

    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Refusal> {
        match self.0.call(request, fds)? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<HypervisorSide>()),
        }
    }
}
