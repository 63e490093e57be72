//! Kernels that say anything in their headers: they load or are refused, and begin in what is memory.
#![no_main]

use hypervisor::{
    boot::{Entry, Image, Source, load},
    layout::KERNEL,
    memory::Memory,
};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::write,
};

const MEMORY: u64 = 8 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = memfd_create("kernel", MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(write(&file, bytes), Ok(bytes.len()));
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK).unwrap();
    let (kernel, memory) = (Source::new("kernel", file).unwrap(), Memory::new(MEMORY).unwrap());
    let image = Image { kernel: &kernel, initrd: Some(&kernel), command_line: "", rsdp: 0xE_0000 };
    if let Ok((Entry::Long { ip } | Entry::Pvh { ip }, _)) = load(&memory, &image) {
        assert!((KERNEL..MEMORY).contains(&ip), "{ip:#x}");
    }
});
