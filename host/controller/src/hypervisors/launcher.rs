//! The process that starts hypervisors, as the controller uses it: the controller itself runs no program any more.

use crate::{
    Refusal,
    peer::{LauncherSide, Peer, unexpected},
};
use ids::InstanceId;
use sandbox::Violation;
use std::{os::fd::BorrowedFd, process::Child};
use wire::{
    Link,
    launcher::{Ended, Reply, Request},
};

/// The launcher's private socket.
#[derive(Debug)]
pub struct Launcher {
    peer: Peer<LauncherSide>,
    /// Its process.
    _child: Option<Child>,
}

impl Launcher {
    /// Takes the socket of a launcher that was started.
    pub fn new(link: Link<Request, Reply>, child: Option<Child>) -> Result<Self, Refusal> {
        Ok(Self { peer: Peer::new(link)?, _child: child })
    }

    /// Whether it is still there. If it is not, neither is any hypervisor.
    pub fn is_there(&mut self) -> bool {
        self.peer.is_there()
    }

    /// Starts one more hypervisor, whose private socket `control` becomes.
    pub fn start(&mut self, instance: &InstanceId, control: BorrowedFd<'_>) -> Result<(), Refusal> {
        match self.peer.call(&Request::Start { instance: instance.clone() }, &[control])? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<LauncherSide>()),
        }
    }

    /// Ends a hypervisor if it has not ended, and returns when it is gone. Gives the call that it was ended for, if
    /// it made one that its sandbox forbids.
    pub fn end(&mut self, instance: &InstanceId) -> Result<Option<Violation>, Refusal> {
        match self.peer.call(&Request::End { instance: instance.clone() }, &[])? {
            Reply::Ended(Ended { code, signal, .. }) => Ok(Violation::from_end(code, signal)),
            _ => Err(unexpected::<LauncherSide>()),
        }
    }
}
