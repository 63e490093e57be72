//! Time: the paravirtual clock, and the real-time clock beside it.

use crate::arch::{self, peek};
use crate::machine::Machine;
use crate::report::{Outcome, require, skip, text};

const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// The paravirtual clock: nanoseconds since the machine was made.
#[derive(Default)]
pub(crate) struct Clock {
    page: u64,
}

impl Clock {
    /// Asks for the clock in two free pages. Without one, every check of it skips and time is the counter's.
    pub(crate) fn start(pages: u64) -> Self {
        let here = arch::write_msr(SYSTEM_TIME, pages | 1) && arch::write_msr(WALL_CLOCK, pages + 4096);
        Self { page: if here && peek::<u32>(pages + 24) != 0 { pages } else { 0 } }
    }

    /// Whether there is a clock.
    pub(crate) fn is_here(&self) -> bool {
        self.page != 0
    }

    /// When the counter stood at `tsc`, in nanoseconds; may lie before the machine's start.
    pub(crate) fn at(&self, tsc: u64) -> i64 {
        if self.page == 0 {
            return (tsc / 2) as i64;
        }
        loop {
            let version = peek::<u32>(self.page);
            let (then, time) = (peek::<u64>(self.page + 8), peek::<u64>(self.page + 16));
            let (scale, shift) = (peek::<u32>(self.page + 24), peek::<u8>(self.page + 28) as i8);
            if version & 1 == 0 && version == peek::<u32>(self.page) {
                let delta = i128::from(tsc) - i128::from(then);
                let delta = if shift >= 0 { delta << shift } else { delta >> -shift };
                return time as i64 + ((delta * i128::from(scale)) >> 32) as i64;
            }
        }
    }

    /// Now, in nanoseconds since the machine was made.
    pub(crate) fn now(&self) -> u64 {
        self.at(arch::tsc()).max(0) as u64
    }

    /// Nanoseconds since 1970 when the machine's clock stood at 0.
    pub(crate) fn epoch(&self) -> u64 {
        let wall = self.page + 4096;
        u64::from(peek::<u32>(wall + 4)) * 1_000_000_000 + u64::from(peek::<u32>(wall + 8))
    }

    /// Lets time pass, awake.
    pub(crate) fn spin(&self, ns: u64) {
        let until = self.now() + ns;
        while self.now() < until {
            core::hint::spin_loop();
        }
    }
}

/// The paravirtual clock never goes back and agrees with the counter.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    let clock = &machine.clock;
    if !clock.is_here() {
        skip!("no paravirtual clock");
    }
    let (start, ticks) = (clock.now(), arch::tsc());
    let (mut last, mut smallest) = (start, u64::MAX);
    while last < start + 20_000_000 {
        let now = clock.now();
        require!(now >= last, "went back by {} ns", last - now);
        smallest = smallest.min((now - last).max(1));
        last = now;
    }
    let khz = (arch::tsc() - ticks) * 1_000_000 / (last - start);
    require!((500_000..10_000_000).contains(&khz), "{khz} kHz between counter and clock");
    Ok(text!("kvm-clock, counter at {}.{:03} MHz, steps of {smallest} ns", khz / 1000, khz % 1000))
}

/// The wall clock is one of these years.
pub(crate) fn wall(machine: &mut Machine) -> Outcome {
    let clock = &machine.clock;
    if !clock.is_here() {
        skip!("no paravirtual clock");
    }
    let seconds = clock.epoch() / 1_000_000_000;
    require!(seconds > 1_700_000_000, "{seconds} s since 1970");
    Ok(text!("{} s since 1970", (clock.epoch() + clock.now()) / 1_000_000_000))
}

fn cmos(register: u8) -> u64 {
    arch::out8(0x70, register);
    u64::from(arch::in8(0x71))
}

/// The real-time clock tells the wall clock's time.
pub(crate) fn real_time(machine: &mut Machine) -> Outcome {
    if cmos(0) == 0xff {
        skip!("no real-time clock");
    }
    let mode = cmos(11);
    let read = |register| {
        if mode & 4 == 0 {
            let v = cmos(register);
            (v >> 4) * 10 + (v & 15)
        } else {
            cmos(register)
        }
    };
    let fields = || [0, 2, 4, 7, 8, 9].map(read);
    let mut now = fields();
    while cmos(10) & 0x80 != 0 || now != fields() {
        now = fields();
    }
    let [second, minute, hour, day, month, year] = now;
    require!(
        second < 60 && minute < 60 && hour < 24 && (1..=31).contains(&day) && (1..=12).contains(&month),
        "{now:?}"
    );
    // Days since 1970 by the civil calendar, years from March.
    let (y, m) = if month > 2 { (2000 + year, month - 3) } else { (1999 + year, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    if machine.clock.is_here() {
        let wall = (machine.clock.epoch() + machine.clock.now()) / 1_000_000_000;
        require!(wall.abs_diff(seconds) <= 2, "{seconds} s, but the wall clock says {wall} s");
    }
    Ok(text!("20{year:02}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"))
}
