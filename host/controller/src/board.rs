//! The main board's management controller, as the controller uses it.

use crate::{
    Refusal,
    peer::{BoardSide, Peer, unexpected},
};
use host_api::{Accelerator, BoardStatus, Power};
use ids::Slot;
use std::path::Path;
use wire::board::{self, Reply, Request};

/// The main board's private socket.
#[derive(Debug)]
pub struct Board(Peer<BoardSide>);

impl Board {
    /// Takes the socket.
    pub fn new(peer: Peer<BoardSide>) -> Self {
        Self(peer)
    }

    /// Whether it is still there.
    pub fn is_there(&mut self) -> bool {
        self.0.is_there()
    }

    /// The present state.
    pub fn status(&mut self) -> Result<BoardStatus, Refusal> {
        let Reply::Status(status) = self.0.call(&Request::Status, &[])? else {
            return Err(unexpected::<BoardSide>());
        };
        Ok(BoardStatus {
            power: match status.power {
                board::Power::Held => Power::Held,
                board::Power::Running => Power::Running,
                board::Power::Off => Power::Off,
            },
            slots: status.slots,
            accelerator: match status.accelerator.as_str() {
                "kvm" => Accelerator::Kvm,
                "tcg" => Accelerator::Tcg,
                _ => Accelerator::Other,
            },
            boots: status.boots,
        })
    }

    /// Plugs the function behind `socket` into `slot`.
    pub fn plug(&mut self, slot: Slot, socket: &Path) -> Result<(), Refusal> {
        self.done(&Request::Plug { slot, socket: socket.to_owned() })
    }

    /// Takes the function out of `slot`, if there is one.
    pub fn unplug(&mut self, slot: Slot) -> Result<(), Refusal> {
        match self.status()?.slots.contains(&slot) {
            true => self.done(&Request::Unplug { slot }),
            false => Ok(()),
        }
    }

    /// Presses the power button.
    pub fn power_button(&mut self) -> Result<(), Refusal> {
        self.done(&Request::PowerButton)
    }

    fn done(&mut self, request: &Request) -> Result<(), Refusal> {
        match self.0.call(request, &[])? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<BoardSide>()),
        }
    }
}
