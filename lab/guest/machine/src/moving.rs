//! The machine goes on in another process while the guest is at work: nothing may be lost, and time goes forward.

use crate::apic;
use crate::arch::{self, TIMER, count, peek, poke};
use crate::machine::Machine;
use crate::nvme::command;
use crate::report::{COM1, Outcome, Time, require, say, skip, text};

const PAGES: u64 = 64;

/// The next byte that was typed, if one is there.
fn typed() -> Option<u8> {
    (arch::in8(COM1 + 5) & 1 == 1).then(|| arch::in8(COM1))
}

/// Timer, memory, processors and NVMe work before and after; the tenant types a line when the move is over.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    if arch::in8(0x603) == 0xff {
        skip!("no event registers: not a machine that moves");
    }
    let pages = machine.pages(PAGES);
    let words = || (pages..pages + PAGES * 4096).step_by(8);
    words().for_each(|word| poke(word, word.rotate_left(17)));
    apic::repeat(machine, 5);
    let (begun, ticks) = (machine.clock.now(), count(TIMER));
    say!("? move");
    let (mut last, mut longest, mut line, mut spoken) = (begun, 0, 0u64, begun);
    while line & 0xff != u64::from(b'\n') {
        let now = machine.clock.now();
        require!(now >= last, "time went back by {}", Time(last - now));
        require!(now < begun + 10_000_000_000, "nobody typed a line in 10 s");
        longest = longest.max(now - last);
        last = now;
        if now > spoken + 50_000_000 {
            // The tenant does not type to a machine that it has not heard.
            say!("still here");
            spoken = now;
        }
        if let Some(byte) = typed() {
            line = line << 8 | u64::from(byte);
        }
    }
    require!(line == u64::from_be_bytes(*b"\0\0moved\n"), "what was typed arrived as {line:#x}");
    let seen = count(TIMER);
    machine.clock.spin(50_000_000);
    let after = count(TIMER) - seen;
    apic::arm(0);
    require!(seen > ticks && after > 3, "the timer came {after} times in 50 ms after the move");
    for word in words() {
        let found = peek::<u64>(word);
        require!(found == word.rotate_left(17), "{found:#x} at {word:#x}");
    }
    let mut works = "no NVMe function";
    if let Some(mut nvme) = machine.nvme.take() {
        for queue in &mut nvme.queues {
            queue.run(machine, command(0, 1))?;
        }
        machine.nvme = Some(nvme);
        works = "NVMe goes on";
    }
    Ok(text!("memory, timer and console go on, {works}; stood still for {} at most", Time(longest)))
}
