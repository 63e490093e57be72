//! What one instance left in memory, the next one does not find.
#![allow(clippy::unwrap_used)]

use hypervisor::memory::Memory;
use std::{collections::BTreeSet, fs, fs::File, os::unix::fs::FileExt};

const BYTES: u64 = 64 << 20;
const PAGE: u64 = 4096;
const PATTERN: &[u8] = b"what the tenant before had in its memory";

/// The host's page frames behind the guest's memory; none if this process may not know them.
fn frames() -> BTreeSet<u64> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("memfd:guest-memory")).unwrap();
    let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0; usize::try_from(BYTES / PAGE).unwrap() * 8];
    pagemap.read_exact_at(&mut entries, start / PAGE * 8).unwrap();
    let entries = entries.chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap()));
    entries.map(|entry| entry & ((1 << 55) - 1)).filter(|frame| *frame != 0).collect()
}

/// Huge pages are used where the host has set some aside, small ones elsewhere: [`Memory`] decides, as it does for
/// guests.
#[test]
fn what_is_planted_is_gone_from_the_same_pages() {
    let plant = || {
        let memory = Memory::new(BYTES).unwrap();
        let pattern: Vec<u8> = PATTERN.iter().copied().cycle().take(1 << 20).collect();
        for at in (0..BYTES).step_by(pattern.len()) {
            memory.write(at, &pattern).unwrap();
        }
        frames()
    };
    let mut met = 0;
    for _ in 0..5 {
        let planted = plant();
        let memory = Memory::new(BYTES).unwrap();
        let mut piece = vec![1; 1 << 20];
        for at in (0..BYTES).step_by(piece.len()) {
            memory.read(at, &mut piece).unwrap();
            assert!(piece.iter().all(|byte| *byte == 0), "something at {at:#x}");
        }
        if planted.is_empty() {
            println!(
                "skipped: what_is_planted_is_gone_from_the_same_pages: page frames are not shown to this user"
            );
            return;
        }
        met += planted.intersection(&frames()).count();
    }
    assert!(met > 0, "the same frames were never given out again, so nothing was proven");
}
