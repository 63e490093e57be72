//! ACPI tables of a hardware-reduced machine (ACPI 6.5), with the names that EC2 guests see.
//!
//! Nothing of a guest's goes into them; they are made once, before it runs.

mod dsdt;

use crate::{
    devices::power::RESET,
    layout::{self, ECAM, IOAPIC, LAPIC, POWER},
};
use acpi_tables::{
    Aml, AmlSink,
    facs::FACS,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use std::ops::Range;

const OEM: [u8; 6] = *b"AMAZON";
const CREATOR: [u8; 4] = *b"AMZN";
/// Boot architecture: there is no VGA, and no ASPM to control.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4;
/// Emulated devices: the real-time clock and the timer need none of the workarounds for real ones.
const WAET_FLAGS: u32 = 0b11;
/// Tables begin at multiples of this, which is what the FACS needs.
const ALIGNMENT: u64 = 64;

/// What differs between machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The local APIC's id of each processor.
    pub apic_ids: Vec<u8>,
    /// The window for 64-bit BARs.
    pub mmio64: Range<u64>,
}

/// Tables for `facts` as they lie in memory, first the RSDP at [`layout::RSDP`].
pub fn tables(facts: &Facts) -> Vec<(u64, Vec<u8>)> {
    let mut placed = Placed { next: layout::RSDP + ALIGNMENT, tables: Vec::new() };
    let facs = placed.put(bytes(&FACS::new()));
    let dsdt = placed.table(bytes(&sdt(*b"DSDT", 2, &dsdt::dsdt(facts))));
    let listed = [
        placed.table(bytes(&fadt(facs, dsdt))),
        placed.table(bytes(&madt(&facts.apic_ids))),
        placed.table(bytes(&mcfg())),
        placed.table(bytes(&sdt(*b"SSDT", 2, &dsdt::generation()))),
        placed.table(bytes(&sdt(*b"WAET", 1, &WAET_FLAGS.to_le_bytes()))),
    ];
    let mut xsdt = XSDT::new(OEM, table_id(*b"XSDT"), 1);
    listed.into_iter().for_each(|address| xsdt.add_entry(address));
    let xsdt = placed.table(bytes(&xsdt));
    placed.tables.insert(0, (layout::RSDP, bytes(&Rsdp::new(OEM, xsdt))));
    placed.tables
}

struct Placed {
    next: u64,
    tables: Vec<(u64, Vec<u8>)>,
}

impl Placed {
    fn put(&mut self, table: Vec<u8>) -> u64 {
        let at = self.next;
        self.next = (at + table.len() as u64).next_multiple_of(ALIGNMENT);
        self.tables.push((at, table));
        at
    }

    /// A table with the standard header, whose creator is ours.
    fn table(&mut self, mut table: Vec<u8>) -> u64 {
        for (byte, value) in table.iter_mut().skip(28).zip(CREATOR) {
            *byte = value;
        }
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(checksum) = table.get_mut(9) {
            *checksum = checksum.wrapping_sub(sum);
        }
        self.put(table)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

struct Table(Sdt);

impl Aml for Table {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0.as_slice());
    }
}

fn sdt(signature: [u8; 4], revision: u8, body: &[u8]) -> Table {
    let mut table = Sdt::new(signature, 36, revision, OEM, table_id(signature), 1);
    table.append_slice(body);
    Table(table)
}

/// `AMZN` and the table's name.
fn table_id(signature: [u8; 4]) -> [u8; 8] {
    let mut id = *b"AMZN    ";
    for (byte, letter) in id.iter_mut().skip(4).zip(signature) {
        *byte = letter;
    }
    id
}

/// A register of one byte in the power block.
fn register(offset: u64) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, POWER.start + offset)
}

fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, table_id(*b"FACP"), 1)
        .firmware_ctrl_32(low(facs))
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.sleep_control_reg = register(0);
    fadt.sleep_status_reg = register(1);
    fadt.reset_reg = register(2);
    fadt.reset_value = RESET;
    fadt.finalize()
}

fn madt(apic_ids: &[u8]) -> MADT {
    let mut madt = MADT::new(OEM, table_id(*b"APIC"), 1, LocalInterruptController::Address(low(LAPIC)));
    for (uid, apic_id) in (0u8..).zip(apic_ids) {
        madt.add_structure(ProcessorLocalApic::new(uid, *apic_id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, low(IOAPIC), 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, table_id(*b"MCFG"), 1);
    mcfg.add_ecam(ECAM.start, 0, 0, 0);
    mcfg
}

/// Addresses of the layout that are below 4 GiB.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
