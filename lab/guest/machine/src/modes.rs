//! What the guest does instead of its checks when its command line says so: for tests of the machine's other side.

use crate::arch::{self, map_gib, poke};
use crate::machine::{self, Machine};
use crate::report::say;

/// Lines of 67 bytes that a flood writes: more than the console keeps.
const FLOOD: u32 = 1500;

/// Does what the command line says. `flood` and `plant` end with the guest; `fault` and `reset` do not return.
pub(crate) fn obey(machine: &Machine) {
    if machine.told("plant") {
        plant(machine);
    }
    if machine.told("flood") {
        (0..FLOOD).for_each(|line| say!("flood {line:060}"));
    }
    if machine.told("fault") {
        arch::triple_fault();
    }
    if machine.told("reset") {
        arch::out8(0x602, 1);
    }
    if machine.told("plant") || machine.told("flood") {
        say!("end 1 0 0");
        machine::power_off();
    }
    while machine.told("sleep") {
        arch::sleep(arch::counter(0), 0);
    }
}

/// Leaves a pattern in all memory that is not the guest's own.
fn plant(machine: &Machine) {
    let mut words = 0u64;
    for ram in machine.ram.iter().filter(|ram| ram.len > 0) {
        let start = ram.start.max(machine.free()).next_multiple_of(4096);
        for word in (start..ram.start + ram.len).step_by(4096) {
            if map_gib(word) {
                poke(word, 0x5ec2_e75e_c2e7_5ec2u64);
                words += 1;
            }
        }
    }
    say!("plant ok {words} pages");
}
