//! Interrupts: local timers, messages between processors, lines, and sleeping until one comes.

use crate::arch::{self, CALL, LINES, TIMER, count, counter, peek, poke};
use crate::machine::Machine;
use crate::report::{COM1, Outcome, Time, require, text};

const APIC: u64 = 0xfee0_0000;
const SPURIOUS: u64 = APIC + 0xf0;
const COMMAND: u64 = APIC + 0x300;
const TIMER_ENTRY: u64 = APIC + 0x320;
const TIMER_COUNT: u64 = APIC + 0x380;
const TIMER_LEFT: u64 = APIC + 0x390;
const TIMER_DIVIDER: u64 = APIC + 0x3e0;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;

/// Switches this processor's interrupt controller on.
pub(crate) fn enable() {
    poke(SPURIOUS, 0x1ffu32);
}

/// This processor's interrupt id.
pub(crate) fn id() -> u32 {
    peek::<u32>(APIC + 0x20) >> 24
}

/// Sends a command (vector, kind) to a processor and waits until it has left.
pub(crate) fn send(to: u32, command: u32) {
    poke(COMMAND + 0x10, to << 24);
    poke(COMMAND, command);
    while peek::<u32>(COMMAND) >> 12 & 1 == 1 {}
}

/// One shot of the timer.
pub(crate) fn arm(ticks: u64) {
    poke(TIMER_ENTRY, u32::from(TIMER));
    poke(TIMER_COUNT, u32::try_from(ticks).unwrap_or(u32::MAX));
}

/// Sleeps, with the timer as the alarm, until the counter of `vector` has changed or the time is over.
pub(crate) fn wait_for(machine: &Machine, vector: u8, seen: u32, ms: u64) -> bool {
    let until = machine.clock.now() + ms * 1_000_000;
    while count(vector) == seen {
        let now = machine.clock.now();
        if now >= until {
            return false;
        }
        arm((until - now) / 1000 * machine.ticks / 1000 + 1);
        // Whoever comes first, the alarm or the one that is waited for, wakes it.
        arch::sleep(counter(vector), seen);
    }
    arm(0);
    true
}

/// A line of the I/O interrupt controller to this processor: vector `LINES` + line.
pub(crate) fn connect(line: u8, level: bool) {
    if level {
        arch::mask_when_served(line);
    }
    let io = 0xfec0_0000u64;
    let set = |register: u32, value: u32| {
        poke(io, register);
        poke(io + 0x10, value);
    };
    set(0x11 + 2 * u32::from(line), id() << 24);
    set(0x10 + 2 * u32::from(line), u32::from(LINES + line) | u32::from(level) << 15);
}

/// The timer, again and again.
pub(crate) fn repeat(machine: &Machine, ms: u64) {
    poke(TIMER_ENTRY, u32::from(TIMER) | PERIODIC);
    poke(TIMER_COUNT, u32::try_from(machine.ticks * ms).unwrap_or(u32::MAX));
}

/// A one-shot timer comes once and in time. Also measures the timer's pace.
pub(crate) fn timer(machine: &mut Machine) -> Outcome {
    enable();
    poke(TIMER_DIVIDER, 0xbu32);
    poke(TIMER_ENTRY, u32::from(TIMER) | MASKED);
    let start = machine.clock.now();
    poke(TIMER_COUNT, u32::MAX);
    machine.clock.spin(10_000_000);
    let left = peek::<u32>(TIMER_LEFT);
    machine.ticks = u64::from(u32::MAX - left) * 1_000_000 / (machine.clock.now() - start);
    require!(machine.ticks > 1000, "the timer stands still");
    let seen = count(TIMER);
    let start = machine.clock.now();
    arm(machine.ticks * 20);
    while count(TIMER) == seen {
        require!(machine.clock.now() < start + 2_000_000_000, "20 ms have not come after 2 s");
    }
    let took = machine.clock.now() - start;
    require!(took > 19_000_000, "20 ms came after {}", Time(took));
    machine.clock.spin(5_000_000);
    require!(count(TIMER) == seen + 1, "one shot came {} times", count(TIMER) - seen);
    Ok(text!("20 ms took {}, {} ticks in a ms", Time(took), machine.ticks))
}

/// A periodic timer comes again and again and stops when told.
pub(crate) fn periodic(machine: &mut Machine) -> Outcome {
    let (seen, start) = (count(TIMER), machine.clock.now());
    repeat(machine, 5);
    while count(TIMER) < seen + 10 {
        require!(machine.clock.now() < start + 2_000_000_000, "{} of 10 periods in 2 s", count(TIMER) - seen);
    }
    let took = machine.clock.now() - start;
    arm(0);
    require!(took > 44_000_000, "10 periods of 5 ms took {}", Time(took));
    machine.clock.spin(1_000_000);
    let after = count(TIMER);
    machine.clock.spin(20_000_000);
    require!(count(TIMER) == after, "it goes on after it was stopped");
    Ok(text!("10 periods of 5 ms took {}", Time(took)))
}

/// A processor's message to itself arrives.
pub(crate) fn to_self(machine: &mut Machine) -> Outcome {
    let mut worst = 0;
    let mut all = 0;
    for _ in 0..100 {
        let (seen, start) = (count(CALL), arch::tsc());
        send(id(), 0x4000 | u32::from(CALL));
        while count(CALL) == seen {
            require!(machine.clock.now() as i64 - machine.clock.at(start) < 1_000_000_000, "not after 1 s");
        }
        let took = (machine.clock.at(arch::interrupted()) - machine.clock.at(start)).max(0) as u64;
        worst = worst.max(took);
        all += took;
    }
    Ok(text!("100 of 100, mean {}, worst {}", Time(all / 100), Time(worst)))
}

/// The serial port's line, raised by "ready to send", comes through the I/O interrupt controller.
pub(crate) fn line(machine: &mut Machine) -> Outcome {
    let vector = LINES + 4;
    let seen = count(vector);
    connect(4, false);
    arch::out8(COM1 + 4, 0x0b);
    arch::out8(COM1 + 1, 2);
    let came = wait_for(machine, vector, seen, 1000);
    let reason = arch::in8(COM1 + 2);
    arch::out8(COM1 + 1, 0);
    require!(came, "line 4 did not come in 1 s (interrupt reason {reason:#x})");
    Ok(text!("line 4, serial port ready to send"))
}

/// HLT sleeps until the timer, again and again.
pub(crate) fn idle(machine: &mut Machine) -> Outcome {
    let (mut late, mut worst) = (0, 0);
    for _ in 0..20 {
        let (seen, start) = (count(TIMER), machine.clock.now());
        arm(machine.ticks * 5);
        while count(TIMER) == seen {
            arch::sleep(counter(TIMER), seen);
        }
        let took = machine.clock.now() - start;
        require!(took > 4_800_000, "5 ms of sleep took {}", Time(took));
        late += took - 5_000_000.min(took);
        worst = worst.max(took - 5_000_000.min(took));
    }
    Ok(text!("20 sleeps of 5 ms, {} late on average, {} at worst", Time(late / 20), Time(worst)))
}
