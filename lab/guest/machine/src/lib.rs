//! The self-checking guest: a few KiB that start by PVH on any x86-64 virtual machine and test it from the inside:
//! console, clocks, timers, interrupts, idle, processors, memory, every kind of exit, PCI, NVMe, hot-plug. The body
//! runs at CPL3 and the handlers, short, at CPL0, so that it also runs where kernel mode is emulated.
//!
//! It trusts the machine under test with its own memory, reports on the first serial port (`report`), and holds
//! nothing worth protecting.
#![no_std]
#![cfg_attr(image, no_main)]
#![allow(clippy::result_large_err, reason = "there is no allocator to box it with")]
#![allow(clippy::cast_possible_truncation, reason = "words are cut out of registers, on 64 bits")]
#![allow(unexpected_cfgs, reason = "`image` is set where the image is linked")]

mod acpi;
mod apic;
mod arch;
mod bench;
mod clock;
mod compute;
mod exits;
mod hotplug;
mod identity;
mod machine;
mod memory;
mod modes;
mod moving;
mod nvme;
mod pci;
mod processors;
mod report;
mod storage;

use machine::Machine;
use report::{Outcome, Tally, say};

type Check = (&'static str, fn(&mut Machine) -> Outcome);

/// Every check, in order: later ones use what earlier ones have shown.
const CHECKS: &[Check] = &[
    ("console", machine::console),
    ("identity", identity::check),
    ("smbios", identity::smbios),
    ("acpi", acpi::check),
    ("clock", clock::check),
    ("wall-clock", clock::wall),
    ("rtc", clock::real_time),
    ("memory", memory::check),
    ("timer", apic::timer),
    ("timer-periodic", apic::periodic),
    ("interrupt-self", apic::to_self),
    ("interrupt-line", apic::line),
    ("idle", apic::idle),
    ("processors", processors::check),
    ("port-io", exits::ports),
    ("port-io-string", exits::strings),
    ("mmio", exits::mmio),
    ("msr", exits::registers),
    ("faults", exits::faults),
    ("pci", pci::check),
    ("pci-bars", pci::bars),
    ("nvme", storage::start),
    ("nvme-data", storage::data),
    ("nvme-queues", storage::queues),
    ("nvme-interrupts", storage::interrupts),
    ("nvme-hostile", storage::hostile),
    ("nvme-restart", storage::restart),
    ("nvme-reset", storage::reset),
    ("moved", moving::check),
    ("hotplug", hotplug::orderly),
    ("hotplug-surprise", hotplug::surprise),
];

/// What is measured when the command line says `bench`.
const BENCH: &[Check] = &[("first-instruction", bench::first_instruction), ("compute", bench::compute_loop)];

/// What is measured when it says `exits`.
const EXITS: &[Check] = &[
    ("fault-inside", bench::own_fault),
    ("port-out", bench::port_out),
    ("port-in", bench::port_in),
    ("mmio-write", bench::mmio_write),
    ("mmio-read", bench::mmio_read),
    ("interrupt-self", bench::interrupt_self),
    ("doorbell", bench::doorbell),
    ("bell", bench::bell),
    ("bell-answered", bench::bell_answered),
    ("nvme-read-awake", |machine| bench::round_trip(machine, false)),
    ("nvme-read-asleep", |machine| bench::round_trip(machine, true)),
];

/// Where entry.s hands over, at CPL3.
#[unsafe(no_mangle)]
extern "C" fn body(processor: u32) -> ! {
    if processor != 0 {
        processors::work();
    }
    arch::install();
    // The old interrupt controllers would use the vectors of faults.
    arch::out8(0x21, 0xff);
    arch::out8(0xa1, 0xff);
    arch::interrupts_on();
    say!("azote-guest 1");
    let mut tally = Tally::default();
    match Machine::find() {
        Ok(mut machine) => {
            let list = match () {
                () if machine.told("bench") => BENCH,
                () if machine.told("exits") => EXITS,
                () => CHECKS,
            };
            modes::obey(&machine);
            for (name, check) in list {
                if machine.wants(name) {
                    tally.note(name, &check(&mut machine));
                }
            }
        }
        Err(why) => tally.note("start", &Err(why)),
    }
    tally.end();
    machine::power_off()
}

/// A fault that no check expected.
#[unsafe(no_mangle)]
extern "C" fn fatal(vector: u32, at: u64) -> ! {
    say!("fault FAIL vector {vector} at {at:#x}");
    machine::power_off()
}

#[cfg(image)]
#[panic_handler]
fn panic(why: &core::panic::PanicInfo<'_>) -> ! {
    say!("panic FAIL {}", report::text!("{}", why.message()).as_str());
    machine::power_off()
}
