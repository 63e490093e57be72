//! The tables: sums and links, and what Intel's own compiler says where it is installed.

use super::*;
use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

fn all() -> BTreeMap<u64, Vec<u8>> {
    tables(&Facts { apic_ids: vec![0, 1, 2, 3], mmio64: layout::mmio64(46) }).into_iter().collect()
}

fn word(table: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(table[at..at + 8].try_into().unwrap())
}

#[test]
fn every_table_is_found_from_the_rsdp_and_sums_to_zero() {
    let all = all();
    let rsdp = &all[&layout::RSDP];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let xsdt = &all[&word(rsdp, 24)];
    let mut found: Vec<u64> = (36..xsdt.len()).step_by(8).map(|at| word(xsdt, at)).collect();
    let fadt = &all[&found[0]];
    found.push(word(fadt, 140));
    found.push(word(rsdp, 24));
    for table in found.iter().map(|address| &all[address]) {
        assert_eq!(sum(table), 0);
        assert_eq!(u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize, table.len());
        assert_eq!((&table[10..20], &table[28..32]), (&b"AMAZONAMZN"[..], &b"AMZN"[..]));
    }
    // All but RSDP and FACS.
    assert_eq!(found.len(), all.len() - 2);
    let facs = u64::from(u32::from_le_bytes(fadt[36..40].try_into().unwrap()));
    assert_eq!(&all[&facs][..4], b"FACS");
}

#[test]
fn tables_lie_apart_below_smbios() {
    let mut end = layout::RSDP;
    for (address, table) in all() {
        assert!(address >= end && layout::TABLES.contains(&address));
        end = address + table.len() as u64;
    }
    assert!(end <= layout::SMBIOS.start);
}

/// `iasl` takes the tables apart, and compiles what it found without a word of warning.
#[test]
fn the_acpi_compiler_has_nothing_to_say() {
    if Command::new("iasl").arg("-v").stdout(Stdio::null()).status().is_err() {
        println!("skipped: the_acpi_compiler_has_nothing_to_say: no iasl (Debian: acpica-tools)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for table in all().values().filter(|table| !table.starts_with(b"RSD PTR ")) {
        let name = String::from_utf8_lossy(&table[..4]).into_owned();
        std::fs::write(folder.path().join(format!("{name}.aml")), table).unwrap();
        let run = |arguments: &[&str]| {
            let done = Command::new("iasl").args(arguments).current_dir(folder.path()).output().unwrap();
            let said = [done.stdout, done.stderr].concat();
            assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
            String::from_utf8_lossy(&said).into_owned()
        };
        let externals = if name == "SSDT" { vec!["-e", "DSDT.aml"] } else { Vec::new() };
        run(&[externals, vec!["-d", &format!("{name}.aml")]].concat());
        if matches!(name.as_str(), "DSDT" | "SSDT") {
            let said = run(&["-p", &format!("again-{name}"), &format!("{name}.dsl")]);
            assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
        }
    }
}

/// `acpiexec` runs the event method as a guest's interpreter does. All bits are set, so every slot is asked back and
/// announced, and the button and the generation id are told.
#[test]
fn an_interpreter_tells_every_slot() {
    if Command::new("acpiexec").arg("-v").stdout(Stdio::null()).status().is_err() {
        println!("skipped: an_interpreter_tells_every_slot: no acpiexec (Debian: acpica-tools)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new("acpiexec");
    run.args(["-r", "-fv", "255", "-b", "execute \\_SB.GED_._EVT 5"]);
    for table in all().values().filter(|table| table.starts_with(b"DSDT") || table.starts_with(b"SSDT")) {
        let file = folder.path().join(String::from_utf8_lossy(&table[..4]).into_owned());
        std::fs::write(&file, table).unwrap();
        run.arg(file);
    }
    let run = run.output().unwrap();
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    let told = |device: &str, value: &str| {
        said.lines().filter(|line| line.contains(&format!("on [{device}")) && line.contains(value)).count()
    };
    assert_eq!((told("S", "Value 0x03"), told("S", "Value 0x01")), (31, 31), "{said}");
    assert_eq!((told("PWRB", "Value 0x80"), told("VMGN", "Value 0x80")), (1, 1), "{said}");
    assert!(!said.contains("AE_"), "{said}");
}
