//! The filter of model-specific registers.

use super::promise::REGISTERS;
use crate::vm::{Tried, VmError};
use kvm_ioctls::{Cap, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

/// Windows that hold all listed registers: KVM takes 16, each of at most 12,288 registers.
const WINDOWS: [u32; 4] = [0, 0x4B56_4D00, 0xC000_0000, 0xC001_0000];
const WINDOW: u32 = 0x2000;

/// Denies what is not listed: such an access is a general protection fault in the guest.
pub(crate) fn filter(vm: &VmFd) -> Result<(), VmError> {
    if !vm.check_extension(Cap::X86MsrFilter) {
        tracing::warn!("this KVM filters no model-specific registers: guests reach all that it emulates");
        return Ok(());
    }
    let maps = WINDOWS.map(|base| (base, bitmap(base)));
    let ranges: Vec<_> = maps
        .iter()
        .map(|(base, bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: *base,
            msr_count: WINDOW,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges).tried("filter registers")
}

fn bitmap(base: u32) -> Vec<u8> {
    let mut bitmap = vec![0; WINDOW as usize / 8];
    for at in REGISTERS.iter().cloned().flatten().filter_map(|register| register.checked_sub(base)) {
        if let Some(byte) = bitmap.get_mut(at as usize / 8) {
            *byte |= 1 << (at % 8);
        }
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_register_lies_in_a_window() {
        for register in REGISTERS.iter().cloned().flatten() {
            let windows: Vec<_> =
                WINDOWS.iter().filter(|base| (**base..**base + WINDOW).contains(&register)).collect();
            let [base] = windows.as_slice() else { panic!("{register:#x} is in {} windows", windows.len()) };
            let at = register - **base;
            assert_ne!(bitmap(**base)[at as usize / 8] & 1 << (at % 8), 0, "{register:#x}");
        }
        let allowed: u32 = WINDOWS.iter().flat_map(|base| bitmap(*base)).map(u8::count_ones).sum();
        assert_eq!(allowed as usize, REGISTERS.iter().cloned().flatten().count());
    }
}
