//! Who the machine says it is: CPUID and SMBIOS.

use crate::arch::{cpuid, peek};
use crate::machine::Machine;
use crate::report::{Outcome, fail, require, skip, text};

/// There is a hypervisor, it is KVM, and the processors are as many as the tables say.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    require!(cpuid(1, 0)[2] >> 31 == 1, "CPUID does not admit a hypervisor");
    let [_, b, c, d] = cpuid(0x4000_0000, 0);
    let mut name = [0; 12];
    for (to, from) in name.chunks_mut(4).zip([b, c, d]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let name = str::from_utf8(&name).unwrap_or("?").trim_end_matches('\0');
    if name != "KVMKVMKVM" {
        skip!("the hypervisor is {name:?}");
    }
    let bits = cpuid(0x8000_0008, 0)[0] & 0xff;
    require!((36..=52).contains(&bits), "{bits} bits of physical addresses");
    let ids = cpuid(0xb, 1)[1] & 0xffff;
    if cpuid(0, 0)[0] >= 0xb {
        let told = machine.tables.count;
        require!(ids as usize == told, "CPUID leaf 0xb says {ids} processors, the tables say {told}");
    }
    Ok(text!("{name}, {bits} address bits, {ids} logical processors"))
}

/// SMBIOS names the maker as EC2 guests see it.
pub(crate) fn smbios(_: &mut Machine) -> Outcome {
    let is = |at: u64, anchor: &[u8; 4]| peek::<u32>(at) == u32::from_le_bytes(*anchor);
    let anchor = (0xf_0000..0x10_0000).step_by(16).find(|at| is(*at, b"_SM_") || is(*at, b"_SM3"));
    let Some(anchor) = anchor else { skip!("no SMBIOS entry point") };
    let old = is(anchor, b"_SM_");
    let len = u64::from(peek::<u8>(anchor + if old { 5 } else { 6 }));
    let sum = (anchor..anchor + len).fold(0u8, |sum, at| sum.wrapping_add(peek(at)));
    require!(sum == 0, "entry point: wrong checksum");
    let (mut at, len) = if old {
        (u64::from(peek::<u32>(anchor + 24)), u64::from(peek::<u16>(anchor + 22)))
    } else {
        (peek(anchor + 16), u64::from(peek::<u32>(anchor + 12)))
    };
    let end = at + len;
    let mut structures = 0;
    let mut uuid = None;
    while at + 4 <= end && peek::<u8>(at) != 127 {
        if peek::<u8>(at) == 1 {
            uuid = Some(peek::<u32>(at + 8));
            require!(string_is(at, peek(at + 4), b"Amazon EC2"), "the maker of the system is not Amazon EC2");
        }
        structures += 1;
        at += u64::from(peek::<u8>(at + 1));
        while at < end && peek::<u16>(at) != 0 {
            at += 1;
        }
        at += 2;
    }
    let Some(uuid) = uuid else { fail!("no system structure among {structures}") };
    require!(uuid >> 20 == 0xec2, "the UUID begins with {:08x}, not with ec2", uuid);
    Ok(text!("{structures} structures, Amazon EC2, UUID {uuid:08x}-..."))
}

/// Whether string `number` of the structure at `at` is `text`.
fn string_is(at: u64, number: u8, text: &[u8]) -> bool {
    let mut byte = at + u64::from(peek::<u8>(at + 1));
    for _ in 1..number {
        while peek::<u8>(byte) != 0 {
            byte += 1;
        }
        byte += 1;
    }
    text.iter().chain(&[0]).all(|wanted| {
        byte += 1;
        peek::<u8>(byte - 1) == *wanted
    })
}
