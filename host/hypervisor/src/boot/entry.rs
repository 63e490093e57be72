//! The first processor's registers.

use crate::{
    layout::{BOOT_GDT, BOOT_PAGE_TABLES, BOOT_PARAMETERS},
    memory::Memory,
    vcpu::Vcpu,
    vm::{Tried, VmError},
};
use kvm_bindings::{kvm_regs, kvm_segment};

const PROTECTED: u64 = 1;
const EXTENSION_TYPE: u64 = 1 << 4;
const PAGING: u64 = 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_ENABLE: u64 = 1 << 8;
const LONG_ACTIVE: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
/// Always set.
const FLAGS: u64 = 2;
/// Null, null, 64-bit code, data, busy task state (two entries).
const GDT: [u64; 6] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0];

/// Where and how the first processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Long mode, the first 4 GiB mapped to themselves, the zero page in RSI.
    Long {
        /// The first instruction.
        ip: u64,
    },
    /// 32-bit protected mode without paging, the start info in EBX.
    Pvh {
        /// The first instruction.
        ip: u64,
    },
}

impl Entry {
    /// Sets the registers of the first processor, and writes the tables that they point to.
    pub fn apply(self, memory: &Memory, first: &Vcpu) -> Result<(), VmError> {
        let mut special = first.fd().get_sregs().tried("read registers")?;
        let long = matches!(self, Self::Long { .. });
        let code = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: 0x10,
            type_: 0xB,
            present: 1,
            dpl: 0,
            db: u8::from(!long),
            s: 1,
            l: u8::from(long),
            g: 1,
            ..Default::default()
        };
        let data = kvm_segment { selector: 0x18, type_: 3, db: 1, l: 0, ..code };
        special.cs = code;
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        special.tr = kvm_segment { selector: 0x20, type_: 0xB, s: 0, g: 0, db: 0, limit: 0x67, ..data };
        special.cr0 = PROTECTED | EXTENSION_TYPE;
        if long {
            write_tables(memory).tried("write page tables")?;
            special.gdt.base = BOOT_GDT;
            special.gdt.limit = u16::try_from(size_of_val(&GDT) - 1).unwrap_or_default();
            special.cr0 |= PAGING;
            special.cr3 = BOOT_PAGE_TABLES;
            special.cr4 = PHYSICAL_ADDRESS_EXTENSION;
            special.efer = LONG_ENABLE | LONG_ACTIVE;
        }
        first.fd().set_sregs(&special).tried("set registers")?;
        let registers = match self {
            Self::Long { ip } => {
                kvm_regs { rip: ip, rsi: BOOT_PARAMETERS, rflags: FLAGS, ..Default::default() }
            }
            Self::Pvh { ip } => {
                kvm_regs { rip: ip, rbx: BOOT_PARAMETERS, rflags: FLAGS, ..Default::default() }
            }
        };
        first.fd().set_regs(&registers).tried("set registers")
    }
}

/// One level-4 table, one level-3 table, four tables of 2 MiB pages.
fn write_tables(memory: &Memory) -> Result<(), kvm_ioctls::Error> {
    let write = |address: u64, values: &[u64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        memory.write(address, &bytes).map_err(|_| kvm_ioctls::Error::new(libc::EFAULT))
    };
    write(BOOT_GDT, &GDT)?;
    let table = |index: u64| BOOT_PAGE_TABLES + index * 0x1000;
    write(table(0), &[table(1) | PRESENT_WRITABLE])?;
    for directory in 0..4 {
        write(table(1) + directory * 8, &[table(2 + directory) | PRESENT_WRITABLE])?;
        let pages: Vec<u64> =
            (0..512).map(|page| (directory << 30 | page << 21) | LARGE | PRESENT_WRITABLE).collect();
        write(table(2 + directory), &pages)?;
    }
    Ok(())
}
