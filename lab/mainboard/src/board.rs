//! What the board does when its reset lines move, its BMC is asked, or its guest stops; no I/O of its own.

use ids::Slot;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use wire::{
    Fault,
    board::{Power, Status},
    chip::{Lines, Reset},
};

/// The functions in the slots: the lowest slot's is booted from.
pub(crate) type Functions = BTreeMap<Slot, PathBuf>;

/// Something that the board must follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The reset lines, or that they were cut ([`Lines::HELD`]).
    Lines(Lines),
    /// Put a function into a slot.
    Plug { slot: Slot, socket: PathBuf },
    /// Forget the slot's function.
    Unplug { slot: Slot },
    /// The power button.
    PowerButton,
    /// The guest reset the board.
    GuestReset,
    /// The guest switched the board off.
    GuestOff,
    /// The emulator ended without being told to.
    Died,
}

/// What executes the guest.
pub(crate) trait Machine {
    /// Ends what runs, and starts afresh from the flash with `functions` in their slots.
    fn start(&mut self, functions: &Functions) -> Result<(), Fault>;
    /// Ends what runs; powered, processors held.
    fn park(&mut self) -> Result<(), Fault>;
    /// Ends what runs.
    fn stop(&mut self);
    /// Adds a function to the running machine.
    fn hot_plug(&mut self, slot: Slot, socket: &Path) -> Result<(), Fault>;
    /// Starts the management controller from its flash.
    fn start_bmc(&mut self) -> Result<(), Fault>;
    /// Presses the power button of the running machine.
    fn press_power_button(&mut self) -> Result<(), Fault>;
}

/// The board's state.
#[derive(Debug)]
pub(crate) struct Board {
    lines: Lines,
    power: Power,
    functions: Functions,
    /// Slots whose function was unplugged while the board ran: the emulator cannot empty them until it is
    /// started afresh.
    spent: BTreeSet<Slot>,
    boots: u64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            lines: Lines::HELD,
            power: Power::Held,
            functions: BTreeMap::new(),
            spent: BTreeSet::new(),
            boots: 0,
        }
    }
}

impl Board {
    /// What the BMC answers when it is asked.
    pub(crate) fn status(&self, accelerator: &str) -> Status {
        Status {
            power: self.power,
            slots: self.functions.keys().copied().collect(),
            accelerator: accelerator.to_owned(),
            boots: self.boots,
        }
    }

    /// Follows one event. A fault leaves the board stopped or as it was, never running unasked.
    pub(crate) fn handle(&mut self, event: Event, machine: &mut impl Machine) -> Result<(), Fault> {
        tracing::info!(?event, power = ?self.power);
        match event {
            Event::Lines(lines) => self.follow(lines, machine),
            Event::Plug { .. } | Event::Unplug { .. } | Event::PowerButton
                if self.lines.bmc == Reset::Held =>
            {
                let message =
                    "the management controller is held in reset: verify its firmware and release it";
                Err(Fault::new("board.bmc-held", message))
            }
            Event::Plug { slot, socket } => self.plug(slot, socket, machine),
            Event::Unplug { slot } => self.unplug(slot),
            Event::PowerButton if self.power == Power::Running => machine.press_power_button(),
            Event::PowerButton => {
                Err(Fault::new("board.not-running", "the board does not run: release reset first"))
            }
            Event::GuestReset if self.lines.run() => self.start(machine),
            Event::GuestReset => self.hold(machine),
            Event::GuestOff | Event::Died => {
                machine.stop();
                if self.power == Power::Running {
                    self.power = Power::Off;
                }
                Ok(())
            }
        }
    }

    fn follow(&mut self, lines: Lines, machine: &mut impl Machine) -> Result<(), Fault> {
        let starts = (self.lines.bmc, lines.bmc) == (Reset::Held, Reset::Released);
        let bmc = if starts { machine.start_bmc() } else { Ok(()) };
        self.lines = Lines { bmc: if bmc.is_ok() { lines.bmc } else { Reset::Held }, ..lines };
        // The processors follow their line whatever the management controller does.
        let processors = match (lines.run(), self.power) {
            (true, Power::Running) | (false, Power::Held) => Ok(()),
            (true, _) => self.start(machine),
            (false, _) => self.hold(machine),
        };
        processors.and(bmc)
    }

    fn start(&mut self, machine: &mut impl Machine) -> Result<(), Fault> {
        self.power = Power::Off;
        self.spent.clear();
        machine.start(&self.functions)?;
        self.power = Power::Running;
        self.boots += 1;
        Ok(())
    }

    fn hold(&mut self, machine: &mut impl Machine) -> Result<(), Fault> {
        self.power = Power::Held;
        self.spent.clear();
        machine.park()
    }

    fn plug(&mut self, slot: Slot, socket: PathBuf, machine: &mut impl Machine) -> Result<(), Fault> {
        if !socket.is_absolute() || socket.to_str().is_none() {
            return Err(Fault::new("slot.socket", "name the function's socket by an absolute path in UTF-8"));
        }
        if self.functions.contains_key(&slot) {
            return Err(Fault::new("slot.busy", format!("slot {slot} has a function: unplug it first")));
        }
        if self.spent.contains(&slot) {
            let message = format!("slot {slot} is free again after the next reset: take another");
            return Err(Fault::new("slot.spent", message));
        }
        if self.power == Power::Running {
            machine.hot_plug(slot, &socket)?;
        }
        self.functions.insert(slot, socket);
        Ok(())
    }

    fn unplug(&mut self, slot: Slot) -> Result<(), Fault> {
        if self.functions.remove(&slot).is_none() {
            return Err(Fault::new("slot.empty", format!("slot {slot} has no function")));
        }
        if self.power == Power::Running {
            self.spent.insert(slot);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
