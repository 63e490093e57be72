//! Functions that come and go while the guest runs, by the machine's event registers.

use crate::apic;
use crate::arch::{self, LINES, count, peek};
use crate::machine::Machine;
use crate::nvme::{Nvme, command};
use crate::pci::Function;
use crate::report::{Outcome, fail, require, say, skip, text};

/// The line of the events, and their registers (the names that ACPI gives them).
const LINE: u8 = 5;
const EVENTS: u16 = 0x603;
const FILLED: u16 = 0x604;
const LEAVING: u16 = 0x608;
const EJECT: u16 = 0x60c;

/// Asks for something and waits for the event; gives the slots of `register`.
fn ask(machine: &Machine, request: &str, register: u16) -> Outcome<u32> {
    apic::connect(LINE, true);
    let seen = count(LINES + LINE);
    say!("? {request}");
    let came = apic::wait_for(machine, LINES + LINE, seen, 10_000);
    require!(came, "asked to {request}; no event in 10 s");
    let events = arch::in8(EVENTS);
    require!(events & 1 == 1, "asked to {request}; events {events:#x}");
    require!(arch::in8(EVENTS) == 0, "an event stays after it was taken");
    let slots = arch::in32(register);
    arch::out32(register, slots);
    require!(arch::in32(register) == 0, "slots stay after they were taken");
    Ok(slots)
}

/// Takes every event that waits.
fn settle() {
    arch::in8(EVENTS);
    for register in [FILLED, LEAVING] {
        arch::out32(register, arch::in32(register));
    }
}

fn one(slots: u32) -> Outcome<Function> {
    require!(slots.count_ones() == 1, "slots {slots:#x}");
    Ok(Function(slots.trailing_zeros() as u8))
}

fn added(machine: &mut Machine) -> Outcome<Nvme> {
    let function = one(ask(machine, "attach", FILLED)?)?;
    require!(function.is_here(), "slot {} is announced, but empty", function.0);
    let mut nvme = Nvme::start(machine, function)?;
    nvme.queues[0].run(machine, command(0, 1))?;
    Ok(nvme)
}

/// A function comes, works, is asked back, is let go of, and leaves nothing behind.
pub(crate) fn orderly(machine: &mut Machine) -> Outcome {
    if arch::in8(EVENTS) == 0xff {
        skip!("no event registers");
    }
    // What was there from the start may have been announced as well.
    settle();
    let mut slots = 0;
    for _ in 0..3 {
        let nvme = added(machine)?;
        let function = nvme.function;
        let Some(bar) = function.bars()?[0] else { fail!("no BAR 0") };
        function.enable(true);
        let place = function.place(bar);
        let leaving = one(ask(machine, "detach", LEAVING)?)?;
        require!(leaving == function, "slot {} is to leave, not {}", leaving.0, function.0);
        nvme.stop(machine)?;
        arch::out32(EJECT, 1 << function.0);
        require!(!function.is_here(), "slot {} is still there after it was ejected", function.0);
        require!(peek::<u32>(place) == u32::MAX, "its registers still answer at {place:#x}");
        slots |= 1u32 << function.0;
    }
    Ok(text!("three times: in, used, asked back, ejected (slots {slots:#x})"))
}

fn gone(machine: &mut Machine, how: &str) -> Outcome<u8> {
    let nvme = added(machine)?;
    let function = nvme.function;
    let lost = one(ask(machine, how, LEAVING)?)?;
    require!(lost == function, "slot {} is announced as gone, not {}", lost.0, function.0);
    require!(!function.is_here(), "slot {} is still there", function.0);
    // Accesses of a driver that has not noticed harm nobody.
    nvme.queues[0].ring();
    nvme.messages.mask(1, true);
    arch::out32(EJECT, 1 << function.0);
    Ok(function.0)
}

/// A function is pulled out while a driver uses it; the slot takes another one.
pub(crate) fn surprise(machine: &mut Machine) -> Outcome {
    if arch::in8(EVENTS) == 0xff {
        skip!("no event registers");
    }
    let first = gone(machine, "pull")?;
    let second = gone(machine, "lose")?;
    Ok(text!("pulled out of slot {first}; slot {second} lost its card; both noticed and let go"))
}
