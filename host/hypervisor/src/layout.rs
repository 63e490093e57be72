//! Where everything lies in the guest's physical address space and port space.
//!
//! Memory fills addresses from 0 to at most 3 GiB and goes on at 4 GiB. All ranges are half open, in bytes.

use std::ops::Range;

/// The end of memory below 4 GiB at most; 32-bit BARs begin here.
pub const LOW_END: u64 = 0xC000_0000;
/// Where memory that does not fit below [`LOW_END`] begins.
pub const HIGH_START: u64 = 1 << 32;
/// 32-bit BARs.
pub const MMIO32: Range<u64> = 0xC000_0000..0xE000_0000;
/// PCI configuration space of bus 0, memory mapped (ECAM).
pub const ECAM: Range<u64> = 0xE000_0000..0xE010_0000;
/// I/O APIC, in the kernel.
pub const IOAPIC: u64 = 0xFEC0_0000;
/// The page of the generation id, where EC2 has it.
pub const GENERATION: Range<u64> = 0xFED0_1000..0xFED0_2000;
/// Local APICs, in the kernel.
pub const LAPIC: u64 = 0xFEE0_0000;
/// One page that KVM needs on Intel processors without unrestricted guests.
pub const KVM_IDENTITY: u64 = 0xFFFB_C000;
/// Three pages, likewise.
pub const KVM_TSS: u64 = 0xFFFB_D000;

/// First console: eight ports.
pub const COM1: Range<u64> = 0x3F8..0x400;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;
/// Real-time clock: index and data.
pub const RTC: Range<u64> = 0x70..0x72;
/// Power, reset and hot-plug registers, told to the guest by ACPI.
pub const POWER: Range<u64> = 0x600..0x620;
/// The interrupt of the generic event device (power button, hot-plug, generation id).
pub const GED_GSI: u32 = 5;
/// PCI configuration by ports (type 1): address, then data.
pub const PCI_CONFIG: Range<u64> = 0xCF8..0xD00;
/// Pins of the I/O APIC; interrupts from here on are messages.
pub const IOAPIC_PINS: u32 = 24;
/// PCI slots for functions; slot 0 is the host bridge.
pub const SLOTS: std::ops::RangeInclusive<u8> = 1..=31;

/// Boot: descriptor table, zero page or PVH start info, command line, page tables; all below [`EBDA`].
pub const BOOT_GDT: u64 = 0x500;
/// The zero page of the Linux boot protocol, or the PVH start info.
pub const BOOT_PARAMETERS: u64 = 0x7000;
/// PVH: the memory map and the list of modules.
pub const BOOT_LISTS: u64 = 0x6000;
/// First page table of the 64-bit entry; six pages.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The command line, ended by 0.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line in bytes, without the 0.
pub const COMMAND_LINE_MAX: usize = 4095;
/// The end of usable memory below 1 MiB.
pub const EBDA: u64 = 0x9_FC00;
/// ACPI tables (with the RSDP at the start) and SMBIOS.
pub const TABLES: Range<u64> = 0xE_0000..0x10_0000;
/// The RSDP.
pub const RSDP: u64 = TABLES.start;
/// The SMBIOS 3 entry point; its structures follow.
pub const SMBIOS: Range<u64> = 0xF_0000..0x10_0000;
/// Where kernels are loaded from.
pub const KERNEL: u64 = 0x10_0000;

/// 64-bit BARs: the half terabyte from 512 GiB, or the upper half of what this processor addresses if it
/// addresses less. `physical_bits` is CPUID leaf 0x8000_0008, EAX bits 7 to 0.
pub fn mmio64(physical_bits: u8) -> Range<u64> {
    let end = 1u64 << physical_bits.clamp(36, 40);
    end / 2..end
}

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First guest physical address.
    pub guest: u64,
    /// Where it lies in the memory file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// How `bytes` of memory lie in the address space: one piece, or two if it does not fit below [`LOW_END`].
pub fn memory(bytes: u64) -> Vec<Region> {
    let low = bytes.min(LOW_END);
    let mut regions = vec![Region { guest: 0, offset: 0, len: low }];
    if bytes > low {
        regions.push(Region { guest: HIGH_START, offset: low, len: bytes - low });
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_splits_around_the_hole() {
        assert_eq!(memory(64 << 20), [Region { guest: 0, offset: 0, len: 64 << 20 }]);
        assert_eq!(
            memory(5 << 30),
            [
                Region { guest: 0, offset: 0, len: 3 << 30 },
                Region { guest: 4 << 30, offset: 3 << 30, len: 2 << 30 }
            ]
        );
    }

    #[test]
    fn nothing_lies_on_anything_else() {
        let page = |start: u64| start..start + 0x1000;
        let mut ranges = vec![
            0..LOW_END,
            MMIO32,
            ECAM,
            page(IOAPIC),
            GENERATION,
            page(LAPIC),
            page(KVM_IDENTITY),
            KVM_TSS..KVM_TSS + 0x3000,
            HIGH_START..1 << 35,
            mmio64(46),
        ];
        ranges.sort_by_key(|range| range.start);
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?}");
        }
        assert_eq!(mmio64(52), 512 << 30..1024 << 30);
        assert_eq!(mmio64(39), 256 << 30..512 << 30);
    }
}
