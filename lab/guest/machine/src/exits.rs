//! Every kind of exit that a guest can cause, and the faults that must stay inside.

use crate::arch::{self, fault_of, peek, poke};
use crate::machine::Machine;
use crate::report::{COM1, Outcome, fail, require, text};

/// A port that no device has.
const NOBODY: u16 = 0x2f8;
/// An address in the window of devices that no device has.
const NOWHERE: u64 = 0xdfff_f000;

/// Ports of one, two and four bytes; nobody's read as ones.
pub(crate) fn ports(_: &mut Machine) -> Outcome {
    let read = (arch::in8(NOBODY), arch::in16(NOBODY), arch::in32(NOBODY));
    require!(read == (0xff, 0xffff, 0xffff_ffff), "nobody's port reads {read:x?}");
    arch::out8(NOBODY, 0x5a);
    arch::out16(NOBODY, 0x5a5a);
    arch::out32(NOBODY, 0x5a5a_5a5a);
    require!(arch::in8(NOBODY) == 0xff, "nobody's port keeps what is written");
    Ok(text!("1, 2 and 4 bytes, in and out"))
}

/// String instructions to and from one port.
pub(crate) fn strings(_: &mut Machine) -> Outcome {
    let mut read = [0; 32];
    arch::out_string(COM1 + 7, b"The last one stays: Z");
    arch::in_string(COM1 + 7, &mut read);
    require!(read == [b'Z'; 32], "{read:x?}");
    Ok(text!("rep outs, rep ins"))
}

/// Memory accesses of every size where no memory is.
pub(crate) fn mmio(_: &mut Machine) -> Outcome {
    poke(NOWHERE, 0x5au8);
    poke(NOWHERE, 0x5a5au16);
    poke(NOWHERE, 0x5a5a_5a5au32);
    poke(NOWHERE, 0x5a5a_5a5a_5a5a_5a5au64);
    arch::locked_or(NOWHERE, 1);
    let read: (u8, u16, u32, u64) = (peek(NOWHERE), peek(NOWHERE), peek(NOWHERE), peek(NOWHERE));
    require!(read == (u8::MAX, u16::MAX, u32::MAX, u64::MAX), "nobody's address reads {read:x?}");
    Ok(text!("1, 2, 4 and 8 bytes, read, write and locked"))
}

/// Registers: known ones answer, unknown ones are refused.
pub(crate) fn registers(_: &mut Machine) -> Outcome {
    let Some(features) = arch::read_msr(0xc000_0080) else { fail!("EFER is refused") };
    require!(features >> 10 & 1 == 1, "EFER {features:#x}: not in long mode");
    require!(arch::read_msr(0x1b).is_some_and(|base| base >> 12 == 0xfee00), "APIC base");
    require!(arch::read_msr(0xdead_beef).is_none(), "an unknown register can be read");
    require!(!arch::write_msr(0xdead_beef, 1), "an unknown register can be written");
    Ok(text!("EFER, APIC base; unknown ones refused"))
}

/// Faults come to the guest's own handlers with the right vector, and the guest goes on.
pub(crate) fn faults(_: &mut Machine) -> Outcome {
    let vector = |code, argument| fault_of(code, argument).map_or(-1, |fault| fault.vector);
    require!(vector(arch::undefined, 0) == 6, "an undefined instruction gives no #UD");
    require!(vector(arch::divide, 0) == 0, "a division by 0 gives no #DE");
    require!(vector(arch::divide, 1) == -1, "a division by 1 faults");
    require!(vector(arch::privileged, 0) == 13, "a privileged instruction gives no #GP");
    let beyond = 0xff_0000_1234;
    let Some(page) = fault_of(arch::load, beyond) else { fail!("a read at {beyond:#x} gives no #PF") };
    require!(
        page.vector == 14 && page.address == beyond && page.error & 7 == 4,
        "vector {}, error {:#x}, address {:#x}",
        page.vector,
        page.error,
        page.address
    );
    Ok(text!("#UD, #DE, #GP, #PF with its address"))
}
