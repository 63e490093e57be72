//! Kernels of a few bytes.

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::write,
};
use std::os::fd::OwnedFd;

/// A file that nobody can change any more.
pub(crate) fn sealed(bytes: &[u8]) -> OwnedFd {
    let file = memfd_create("kernel", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(write(&file, bytes).unwrap(), bytes.len());
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK).unwrap();
    file
}

/// An ELF kernel that loads `code` at 1 MiB (and 1 MiB of zeros after it) and begins there by the PVH entry.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    const AT: u32 = 0x10_0000;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(AT.to_le_bytes());
    let (headers, note_at) = (64 + 2 * 56, 64 + 2 * 56u64);
    let code_at = note_at + note.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for value in [u64::from(AT), 64, 0] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for value in [64u16, 56, 2, 0, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    let at = u64::from(AT);
    let load = [code_at, at, at, code.len() as u64, code.len() as u64 + (1 << 20), 4096];
    let notes = [note_at, 0, 0, note.len() as u64, note.len() as u64, 4];
    for (kind, values) in [(1u32, load), (4, notes)] {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    }
    assert_eq!(file.len(), headers);
    file.extend(note);
    file.extend(code);
    file
}

/// A bzImage whose 64-bit entry is `code`.
pub(crate) fn bz_image(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024 + 0x200];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]);
    put(0x201, &[0x6A]);
    put(0x202, b"HdrS");
    put(0x206, &0x20Cu16.to_le_bytes());
    put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x260, &(1u32 << 20).to_le_bytes());
    file.extend(code);
    file.resize(file.len().max(8192), 0);
    file
}
