//! The PVH entry: 32-bit protected mode without paging, a start-info structure in EBX.

use super::{BootError, Entry, Image, elf, load_initrd, low_end, memory_map};
use crate::{
    layout::{BOOT_LISTS, BOOT_PARAMETERS, COMMAND_LINE},
    memory::Memory,
};
use zerocopy::{Immutable, IntoBytes};

const MAGIC: u32 = 0x336E_C578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// Where the memory map begins in [`BOOT_LISTS`]; the one module comes before it.
const MAP: u64 = BOOT_LISTS + 0x100;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Mapped {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// Loads an ELF kernel and writes what it is told.
pub(super) fn load(memory: &Memory, image: &Image<'_>) -> Result<Entry, BootError> {
    let executable = elf::parse(image.kernel)?;
    let low = low_end(memory);
    let mut end = 0;
    for piece in &executable.pieces {
        if piece.guest.end > low {
            return Err(BootError::TooLarge(image.kernel.name()));
        }
        image.kernel.copy(memory, piece.file.clone(), piece.guest.start)?;
        end = piece.guest.end.max(end);
    }
    let mut modules = 0;
    if let Some(initrd) = image.initrd {
        let address = load_initrd(memory, initrd, end, low)?;
        let module = Module { address, size: initrd.len(), command_line: 0, reserved: 0 };
        memory.write(BOOT_LISTS, module.as_bytes())?;
        modules = 1;
    }
    let mut memory_map_entries = 0;
    for (at, (range, usable)) in (MAP..).step_by(size_of::<Mapped>()).zip(memory_map(memory)) {
        let kind = if usable { RAM } else { RESERVED };
        let size = range.end - range.start;
        memory.write(at, Mapped { address: range.start, size, kind, reserved: 0 }.as_bytes())?;
        memory_map_entries += 1;
    }
    let info = StartInfo {
        magic: MAGIC,
        version: 1,
        flags: 0,
        modules,
        module_list: BOOT_LISTS,
        command_line: COMMAND_LINE,
        rsdp: image.rsdp,
        memory_map: MAP,
        memory_map_entries,
        reserved: 0,
    };
    memory.write(BOOT_PARAMETERS, info.as_bytes())?;
    Ok(Entry::Pvh { ip: executable.entry })
}
