//! The ACPI tables that a guest without an interpreter can read: RSDP, XSDT, FADT, MADT, MCFG.

use crate::arch::peek;
use crate::machine::Machine;
use crate::report::{Outcome, require, skip, text};

/// What the tables say.
#[derive(Default)]
pub(crate) struct Tables {
    /// Local APIC ids of the enabled processors.
    pub(crate) processors: [u32; 16],
    /// How many of them.
    pub(crate) count: usize,
    /// Address of the I/O APIC.
    pub(crate) io_apic: u64,
    /// Configuration space of PCI bus 0 in memory; 0 if there is none.
    pub(crate) ecam: u64,
    /// How many tables the XSDT names.
    pub(crate) named: u64,
    /// FADT flag: reduced hardware.
    pub(crate) reduced: bool,
}

fn sum(at: u64, len: u64) -> u8 {
    (at..at + len).fold(0u8, |sum, byte| sum.wrapping_add(peek(byte)))
}

/// An address that need not be aligned to its size.
fn long(at: u64) -> u64 {
    u64::from(peek::<u32>(at)) | u64::from(peek::<u32>(at + 4)) << 32
}

impl Tables {
    /// Follows the RSDP; searches for it where the start info does not give it.
    pub(crate) fn find(rsdp: u64) -> Outcome<Self> {
        let is_rsdp = |at: &u64| peek::<u64>(*at) == u64::from_le_bytes(*b"RSD PTR ");
        let found = if rsdp != 0 { Some(rsdp) } else { (0xe_0000..0x10_0000).step_by(16).find(is_rsdp) };
        let Some(rsdp) = found.filter(is_rsdp) else { skip!("no RSDP") };
        let new = peek::<u8>(rsdp + 15) >= 2;
        require!(sum(rsdp, 20) == 0 && (!new || sum(rsdp, 36) == 0), "RSDP: wrong checksum");
        let mut tables = Self::default();
        // The list of tables: addresses of 64 bits, or of 32 in tables of revision 0.
        let (list, width) = if new { (long(rsdp + 24), 8) } else { (u64::from(peek::<u32>(rsdp + 16)), 4) };
        tables.named = u64::from(peek::<u32>(list + 4).saturating_sub(36)) / width;
        require!(tables.named < 64 && sum(list, 36 + width * tables.named) == 0, "XSDT: wrong checksum");
        for entry in (list + 36..).step_by(width as usize).take(tables.named as usize) {
            tables.read(if new { long(entry) } else { u64::from(peek::<u32>(entry)) })?;
        }
        Ok(tables)
    }

    fn read(&mut self, table: u64) -> Outcome<()> {
        let (signature, len) = (peek::<u32>(table).to_le_bytes(), u64::from(peek::<u32>(table + 4)));
        let name = str::from_utf8(&signature).unwrap_or("?");
        require!(len < 1 << 20 && sum(table, len) == 0, "{name}: wrong checksum");
        match &signature {
            b"APIC" => self.madt(table + 44, table + len),
            b"FACP" => self.reduced = peek::<u32>(table + 112) >> 20 & 1 == 1,
            b"MCFG" => self.ecam = long(table + 44),
            _ => {}
        }
        Ok(())
    }

    fn madt(&mut self, mut at: u64, end: u64) {
        while at + 2 <= end {
            let (kind, len) = (peek::<u8>(at), peek::<u8>(at + 1));
            match kind {
                0 if peek::<u32>(at + 4) & 1 == 1 => self.processor(u32::from(peek::<u8>(at + 3))),
                9 if peek::<u32>(at + 8) & 1 == 1 => self.processor(peek(at + 4)),
                1 => self.io_apic = u64::from(peek::<u32>(at + 4)),
                _ => {}
            }
            at += u64::from(len.max(2));
        }
    }

    fn processor(&mut self, id: u32) {
        if let Some(to) = self.processors.get_mut(self.count) {
            *to = id;
            self.count += 1;
        }
    }
}

/// The tables that every guest needs are there; their checksums held when they were read.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    let tables = &machine.tables;
    require!(tables.count > 0, "MADT: no processor");
    require!(tables.io_apic == 0xfec0_0000, "MADT: I/O APIC at {:#x}", tables.io_apic);
    let kind = if tables.reduced { "reduced hardware" } else { "full hardware" };
    Ok(text!("{} tables, {} processors, {kind}, ECAM {:#x}", tables.named, tables.count, tables.ecam))
}
