//! The 64-bit entry of the Linux boot protocol (Documentation/arch/x86/boot.rst): a bzImage, a zero page, long mode.

use super::{BootError, Entry, Image, load_initrd, low_end, memory_map};
use crate::{
    layout::{BOOT_PARAMETERS, COMMAND_LINE, KERNEL},
    memory::Memory,
};

/// The zero page.
const SIZE: usize = 4096;
const SECTOR: u64 = 512;
/// `XLF_KERNEL_64`: there is a 64-bit entry.
const HAS_64_BIT_ENTRY: u16 = 1;
/// A loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xFF;
/// Offset of that entry from where the kernel was loaded.
const ENTRY: u64 = 0x200;
/// Most entries of the memory map in the zero page.
const MAP_ENTRIES: usize = 128;

/// Offsets in the zero page and, from 0x1F1 on, in the file.
mod at {
    pub(super) const RSDP: usize = 0x070;
    pub(super) const MAP_COUNT: usize = 0x1E8;
    pub(super) const HEADER: usize = 0x1F1;
    pub(super) const SETUP_SECTORS: usize = 0x1F1;
    pub(super) const JUMP_LENGTH: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const INITRD_ADDRESS: usize = 0x218;
    pub(super) const INITRD_SIZE: usize = 0x21C;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const INITRD_MAX: usize = 0x22C;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const EXTRA_FLAGS: usize = 0x236;
    pub(super) const COMMAND_LINE_MAX: usize = 0x238;
    pub(super) const INIT_SIZE: usize = 0x260;
    pub(super) const MAP: usize = 0x2D0;
}

/// The first 4 KiB of the file, then the zero page made of it.
struct Page([u8; SIZE]);

impl Page {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.0.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// Loads a bzImage and writes its zero page.
pub(super) fn load(memory: &Memory, image: &Image<'_>) -> Result<Entry, BootError> {
    let mut file = Page([0; SIZE]);
    image.kernel.read_at(0, &mut file.0)?;
    let header = header(&file)?;
    if image.command_line.len() > usize::try_from(file.u32(at::COMMAND_LINE_MAX)).unwrap_or_default() {
        return Err(BootError::Format("it takes no command line as long as that"));
    }
    let [setup] = file.get(at::SETUP_SECTORS);
    let start = (u64::from(if setup == 0 { 4 } else { setup }) + 1) * SECTOR;
    let code = start..image.kernel.len();
    let size = u64::from(file.u32(at::INIT_SIZE)).max(code.end.saturating_sub(code.start));
    let end = KERNEL.saturating_add(size);
    if code.is_empty() || end > low_end(memory) {
        return Err(BootError::TooLarge(image.kernel.name()));
    }
    image.kernel.copy(memory, code, KERNEL)?;

    let mut page = Page([0; SIZE]);
    page.put(at::HEADER, header);
    page.put(at::LOADER, &[UNDEFINED_LOADER]);
    page.put(at::COMMAND_LINE, &low(COMMAND_LINE)?);
    page.put(at::RSDP, &image.rsdp.to_le_bytes());
    page.put(at::INITRD_ADDRESS, &[0; 8]);
    if let Some(initrd) = image.initrd {
        let top = u64::from(file.u32(at::INITRD_MAX)) + 1;
        page.put(at::INITRD_ADDRESS, &low(load_initrd(memory, initrd, end, top)?)?);
        page.put(at::INITRD_SIZE, &low(initrd.len())?);
    }
    let map = memory_map(memory);
    for (index, (range, usable)) in map.iter().take(MAP_ENTRIES).enumerate() {
        let at = at::MAP + index * 20;
        page.put(at, &range.start.to_le_bytes());
        page.put(at + 8, &(range.end - range.start).to_le_bytes());
        page.put(at + 16, &u32::from(if *usable { 1u8 } else { 2 }).to_le_bytes());
    }
    page.put(at::MAP_COUNT, &[u8::try_from(map.len().min(MAP_ENTRIES)).unwrap_or_default()]);
    memory.write(BOOT_PARAMETERS, &page.0)?;
    Ok(Entry::Long { ip: KERNEL + ENTRY })
}

/// The set-up header of a kernel that can start here.
fn header(file: &Page) -> Result<&[u8], BootError> {
    if file.get(at::MAGIC) != *b"HdrS" || u16::from_le_bytes(file.get(at::VERSION)) < 0x20C {
        return Err(BootError::Format("no set-up header of version 2.12"));
    }
    let flags = u16::from_le_bytes(file.get(at::EXTRA_FLAGS));
    if flags & HAS_64_BIT_ENTRY == 0 || file.get(at::RELOCATABLE) == [0] {
        return Err(BootError::Format("no 64-bit entry, or not relocatable"));
    }
    let [jump] = file.get(at::JUMP_LENGTH);
    let end = (at::MAGIC + usize::from(jump)).min(at::MAP);
    file.0.get(at::HEADER..end).ok_or(BootError::Format("its set-up header"))
}

fn low(value: u64) -> Result<[u8; 4], BootError> {
    let value = u32::try_from(value).map_err(|_| BootError::TooLarge("initial RAM disk"))?;
    Ok(value.to_le_bytes())
}
