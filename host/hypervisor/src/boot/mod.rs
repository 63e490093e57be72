//! Puts a kernel into guest memory and says where the first processor begins. Kernel and initial RAM disk come as
//! files that nobody can change any more, and are measured. What they contain is hostile: every number in them is
//! checked before it is used.

mod elf;
mod entry;
mod linux;
mod pvh;
mod source;

pub use entry::Entry;
pub use source::Source;

use crate::{
    layout::{COMMAND_LINE, COMMAND_LINE_MAX, EBDA, ECAM, HIGH_START, KERNEL, TABLES},
    memory::Memory,
};
use guest_memory::AccessError;
use rustix::io::Errno;
use std::ops::Range;
use wire::hypervisor::Measurement;

/// Why a kernel cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file can still change or shrink.
    #[error("seal the {0} with F_SEAL_WRITE, F_SEAL_GROW and F_SEAL_SHRINK before it is handed over")]
    Unsealed(&'static str),
    /// Reading failed.
    #[error("the {0} cannot be read: {1}")]
    Read(&'static str, Errno),
    /// Not a kernel that starts here.
    #[error(
        "the kernel is neither an ELF file with a PVH entry nor a relocatable 64-bit bzImage of protocol 2.12: {0}"
    )]
    Format(&'static str),
    /// It does not fit.
    #[error("the {0} does not fit into guest memory; give the instance more")]
    TooLarge(&'static str),
    /// The command line.
    #[error("the command line must have at most {0} bytes and no NUL")]
    CommandLine(usize),
    /// An address that is no memory.
    #[error("the kernel asks for memory that the instance does not have: {0}")]
    Memory(#[from] AccessError),
}

impl BootError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsealed(_) => "boot.unsealed",
            Self::Read(..) => "boot.read",
            Self::Format(_) => "boot.format",
            Self::TooLarge(_) | Self::Memory(_) => "boot.memory",
            Self::CommandLine(_) => "boot.command-line",
        }
    }
}

/// What is to start.
pub struct Image<'a> {
    /// ELF with a PVH entry, or bzImage.
    pub kernel: &'a Source,
    /// The initial RAM disk.
    pub initrd: Option<&'a Source>,
    /// At most [`COMMAND_LINE_MAX`] bytes.
    pub command_line: &'a str,
    /// Where the ACPI tables begin.
    pub rsdp: u64,
}

/// Loads `image` into `memory`.
pub fn load(memory: &Memory, image: &Image<'_>) -> Result<(Entry, Measurement), BootError> {
    let line = image.command_line.as_bytes();
    if line.len() > COMMAND_LINE_MAX || line.contains(&0) {
        return Err(BootError::CommandLine(COMMAND_LINE_MAX));
    }
    memory.write(COMMAND_LINE, line)?;
    memory.write(COMMAND_LINE + line.len() as u64, &[0])?;
    let mut magic = [0; 4];
    image.kernel.read_at(0, &mut magic)?;
    let entry = if magic == *b"\x7fELF" { pvh::load(memory, image)? } else { linux::load(memory, image)? };
    let measurement = Measurement {
        kernel: image.kernel.sha256()?,
        initrd: image.initrd.map(Source::sha256).transpose()?,
        command_line: source::sha256(line),
    };
    Ok((entry, measurement))
}

/// A range of the memory map and whether it is memory that the guest may use.
type Mapped = (Range<u64>, bool);

/// What the guest is told of its memory.
fn memory_map(memory: &Memory) -> Vec<Mapped> {
    let mut map = vec![(0..EBDA, true), (EBDA..TABLES.end, false)];
    for region in memory.regions() {
        map.push((region.guest.max(KERNEL)..region.guest + region.len, true));
    }
    map.push((ECAM, false));
    map.sort_by_key(|(range, _)| range.start);
    map
}

/// The end of memory below 4 GiB.
fn low_end(memory: &Memory) -> u64 {
    memory.regions().iter().filter(|region| region.guest < HIGH_START).map(|region| region.len).sum()
}

/// Loads the initial RAM disk as high as it may lie, above the kernel. Returns where it lies.
fn load_initrd(memory: &Memory, initrd: &Source, kernel_end: u64, top: u64) -> Result<u64, BootError> {
    let start = low_end(memory).min(top).checked_sub(initrd.len()).map(|start| start & !0xFFF);
    let start = start.filter(|start| *start >= kernel_end).ok_or(BootError::TooLarge(initrd.name()))?;
    initrd.copy(memory, 0..initrd.len(), start)?;
    Ok(start)
}
