//! Further processors: started by INIT and SIPI, counted, put to work, woken by messages.

use crate::apic;
use crate::arch::{self, CALL, TRAMPOLINE};
use crate::machine::Machine;
use crate::report::{Outcome, require, text};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const ADDITIONS: u64 = 200_000;

/// How many further processors have come up.
static UP: AtomicU32 = AtomicU32::new(0);
/// Number of the round of work.
static ROUND: AtomicU32 = AtomicU32::new(0);
/// How many have done their part of the round.
static DONE: AtomicU32 = AtomicU32::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);

fn add() {
    for _ in 0..ADDITIONS {
        SUM.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a further processor does: sleeps until there is a new round, adds, says that it is done.
pub(crate) fn work() -> ! {
    apic::enable();
    arch::interrupts_on();
    UP.fetch_add(1, Ordering::AcqRel);
    let mut round = 0;
    loop {
        while ROUND.load(Ordering::Acquire) == round {
            arch::sleep(&ROUND, round);
        }
        round = ROUND.load(Ordering::Acquire);
        add();
        DONE.fetch_add(1, Ordering::AcqRel);
    }
}

fn wait(machine: &Machine, what: &AtomicU32, value: u32) -> bool {
    let until = machine.clock.now() + 3_000_000_000;
    while what.load(Ordering::Acquire) < value && machine.clock.now() < until {
        core::hint::spin_loop();
    }
    what.load(Ordering::Acquire) >= value
}

/// Starts every processor of the tables, then five rounds of locked additions by all at once.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    let here = apic::id();
    let ids = machine.tables.processors;
    let others = ids.iter().take(machine.tables.count).filter(|id| **id != here);
    let mut expected = 0;
    for id in others.clone() {
        apic::send(*id, 0x4500);
        machine.clock.spin(10_000_000);
        apic::send(*id, 0x4600 | (TRAMPOLINE >> 12) as u32);
        expected += 1;
        require!(wait(machine, &UP, expected), "processor {id} did not start in 3 s");
    }
    for round in 1..=5 {
        DONE.store(0, Ordering::Release);
        ROUND.store(round, Ordering::Release);
        others.clone().for_each(|id| apic::send(*id, 0x4000 | u32::from(CALL)));
        add();
        let done = wait(machine, &DONE, expected);
        require!(done, "round {round}: {} of {expected} woke and worked", DONE.load(Ordering::Acquire));
    }
    let (sum, wanted) = (SUM.load(Ordering::Acquire), 5 * ADDITIONS * u64::from(expected + 1));
    require!(sum == wanted, "{sum} additions, not {wanted}");
    machine.running = expected + 1;
    Ok(text!("{} of {} run, {sum} locked additions exact", machine.running, machine.tables.count))
}
