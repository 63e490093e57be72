//! RAM: zero when given, keeps what is written, each address its own.

use crate::arch::{map_gib, peek, poke};
use crate::machine::{Machine, Ram};
use crate::report::{Outcome, require, text};

/// Pages that are checked word by word; of larger memory so many, evenly, and the last.
const PAGES: u64 = 40_000;

fn pattern(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ !address.rotate_left(32)
}

fn checked(ram: &Ram, from: u64, step: u64) -> impl Iterator<Item = u64> {
    let (start, end) = (ram.start.max(from).next_multiple_of(4096), (ram.start + ram.len) & !4095);
    let last = end.saturating_sub(4096);
    (start..end).step_by(4096 * step as usize).chain((last >= start && end > start).then_some(last))
}

/// All RAM above the guest's own: zero first, then a pattern by address.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    let from = machine.free();
    let total: u64 = machine.ram.iter().map(|ram| ram.len).sum();
    let step = (total / 4096).div_ceil(PAGES).max(1);
    let mut pages = 0;
    for ram in machine.ram.iter().filter(|ram| ram.len > 0) {
        let end = ram.start + ram.len;
        for gib in (ram.start >> 30)..end.div_ceil(1 << 30) {
            require!(map_gib(gib << 30), "memory at {:#x} is out of the guest's reach", gib << 30);
        }
        for page in checked(ram, from, step) {
            for word in (page..page + 4096).step_by(8) {
                let found = peek::<u64>(word);
                // The last page of a large memory may have been in the even steps already.
                require!(
                    found == 0 || found == pattern(word),
                    "{found:#x} at {word:#x} before anything was written"
                );
                poke(word, pattern(word));
            }
            pages += 1;
        }
    }
    for ram in machine.ram.iter().filter(|ram| ram.len > 0) {
        for page in checked(ram, from, step) {
            for word in (page..page + 4096).step_by(8) {
                let found = peek::<u64>(word);
                require!(found == pattern(word), "{found:#x} at {word:#x}, not {:#x}", pattern(word));
            }
        }
    }
    let top = machine.ram.iter().map(|ram| ram.start + ram.len).max().unwrap_or(0);
    Ok(text!("{} MiB up to {top:#x}, {pages} pages zero and then kept", total >> 20))
}
