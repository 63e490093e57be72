//! What things cost, seen from inside. Each line is `name ok number unit`.

use crate::apic;
use crate::arch::{self, CALL, MESSAGES, count, peek, poke};
use crate::compute::{ROUNDS, compute};
use crate::machine::Machine;
use crate::nvme::Nvme;
use crate::pci::{Messages, functions};
use crate::report::{Outcome, fail, require, skip, text};

/// A port and an address that no device has.
const PORT: u16 = 0x2f8;
const ADDRESS: u64 = 0xdfff_f000;

/// The best mean of five runs of `count` calls, in nanoseconds with three digits behind the point.
fn cost(machine: &Machine, count: u64, mut call: impl FnMut()) -> Outcome {
    let mut best = u64::MAX;
    for _ in 0..5 {
        let start = machine.clock.now();
        (0..count).for_each(|_| call());
        best = best.min((machine.clock.now() - start) * 1000 / count);
    }
    Ok(text!("{}.{:03} ns", best / 1000, best % 1000))
}

/// When the first instruction ran, in nanoseconds since 1970.
pub(crate) fn first_instruction(machine: &mut Machine) -> Outcome {
    if !machine.clock.is_here() {
        skip!("no paravirtual clock");
    }
    Ok(text!("{} ns", machine.clock.epoch() as i64 + machine.clock.at(arch::started())))
}

pub(crate) fn compute_loop(machine: &mut Machine) -> Outcome {
    let mut best = u64::MAX;
    for _ in 0..100 {
        let start = machine.clock.now();
        compute(ROUNDS);
        best = best.min(machine.clock.now() - start);
    }
    Ok(text!("{best} ns"))
}

pub(crate) fn port_out(machine: &mut Machine) -> Outcome {
    cost(machine, 1000, || arch::out8(PORT, 0))
}

pub(crate) fn port_in(machine: &mut Machine) -> Outcome {
    cost(machine, 1000, || {
        arch::in8(PORT);
    })
}

pub(crate) fn mmio_write(machine: &mut Machine) -> Outcome {
    cost(machine, 1000, || poke(ADDRESS, 0u32))
}

pub(crate) fn mmio_read(machine: &mut Machine) -> Outcome {
    cost(machine, 1000, || {
        peek::<u32>(ADDRESS);
    })
}

/// A fault into the guest's own handler and back: no exit.
pub(crate) fn own_fault(machine: &mut Machine) -> Outcome {
    cost(machine, 1000, arch::flush)
}

/// From the command to this processor's own interrupt.
pub(crate) fn interrupt_self(machine: &mut Machine) -> Outcome {
    apic::enable();
    cost(machine, 1000, || {
        let seen = count(CALL);
        apic::send(apic::id(), 0x4000 | u32::from(CALL));
        while count(CALL) == seen {}
    })
}

fn nvme(machine: &mut Machine) -> Outcome<Nvme> {
    apic::timer(machine)?;
    match machine.nvme.take() {
        Some(nvme) => Ok(nvme),
        None => Nvme::start(machine, Nvme::find()?),
    }
}

/// A doorbell without a command behind it: what the write itself costs.
pub(crate) fn doorbell(machine: &mut Machine) -> Outcome {
    let nvme = nvme(machine)?;
    let price = cost(machine, 1000, || nvme.queues[0].ring());
    machine.nvme = Some(nvme);
    price
}

/// The function that only rings: where its bells lie, with its interrupt connected.
fn bells() -> Outcome<(u64, u8)> {
    let Some(function) = functions().find(|function| function.read(0) == 0xbe11_1d0f) else {
        skip!("no bell")
    };
    let bars = function.start()?;
    let Some(bar) = bars[0] else { fail!("no BAR 0") };
    let messages = Messages::enable(function, &bars)?;
    let vector = MESSAGES + 8;
    messages.connect(0, vector);
    Ok((function.place(bar), vector))
}

/// A doorbell that ends in the kernel.
pub(crate) fn bell(machine: &mut Machine) -> Outcome {
    let (at, _) = bells()?;
    cost(machine, 1000, || poke(at, 0u32))
}

/// From a doorbell to the interrupt that answers it.
pub(crate) fn bell_answered(machine: &mut Machine) -> Outcome {
    let (at, vector) = bells()?;
    let (mut best, mut lost) = (u64::MAX, false);
    for _ in 0..5 {
        let start = machine.clock.now();
        for _ in 0..200 {
            let seen = count(vector);
            poke(at + 4, 0u32);
            let until = machine.clock.now() + 1_000_000_000;
            while count(vector) == seen && !lost {
                lost = machine.clock.now() > until;
            }
        }
        best = best.min((machine.clock.now() - start) * 1000 / 200);
    }
    require!(!lost, "no interrupt in 1 s");
    Ok(text!("{}.{:03} ns", best / 1000, best % 1000))
}

/// A read of 4 KiB, one at a time: doorbell, card, interrupt.
pub(crate) fn round_trip(machine: &mut Machine, asleep: bool) -> Outcome {
    let mut nvme = nvme(machine)?;
    let page = machine.pages(1);
    let mut best = u64::MAX;
    for _ in 0..5 {
        let start = machine.clock.now();
        for _ in 0..200 {
            let read = nvme.transfer(false, 0, page, 4096, 0);
            if asleep {
                nvme.queues[0].run(machine, read)?;
                continue;
            }
            let (vector, seen) = (nvme.queues[0].vector, count(nvme.queues[0].vector));
            nvme.queues[0].put(read);
            nvme.queues[0].ring();
            let until = machine.clock.now() + 1_000_000_000;
            while count(vector) == seen {
                require!(machine.clock.now() < until, "no interrupt in 1 s");
            }
            let Some(_) = nvme.queues[0].take() else { fail!("an interrupt without a completion") };
        }
        best = best.min((machine.clock.now() - start) * 1000 / 200);
    }
    machine.nvme = Some(nvme);
    Ok(text!("{}.{:03} ns", best / 1000, best % 1000))
}
