use super::*;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

fn range(iova: u64, len: u64) -> DmaMap {
    DmaMap { iova, len, offset: 0, readable: true, writable: true }
}

fn unsealed(len: u64, flags: MemfdFlags) -> OwnedFd {
    let file = memfd_create("test", flags).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

/// Two maps that touch in bus addresses, of one file in swapped order, and a view of the whole file at 0.
fn swapped() -> (GuestMemory, GuestMemory) {
    let file = memfd(2 * PAGE).unwrap();
    let mut file_view = GuestMemory::new(Sealing::Required);
    file_view.map(range(0, 2 * PAGE), Some(file.try_clone().unwrap())).unwrap();
    let mut memory = GuestMemory::new(Sealing::Required);
    memory.map(DmaMap { offset: PAGE, ..range(0x10000, PAGE) }, Some(file.try_clone().unwrap())).unwrap();
    memory.map(range(0x10000 + PAGE, PAGE), Some(file)).unwrap();
    (memory, file_view)
}

#[test]
fn copies_cross_maps_that_touch() {
    let (memory, file) = swapped();
    memory.write(0x10000 + PAGE - 3, b"abcdef").unwrap();
    let mut bytes = [0; 3];
    file.read(2 * PAGE - 3, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    file.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"def");
    let mut all = [0; 6];
    memory.read(0x10000 + PAGE - 3, &mut all).unwrap();
    assert_eq!(&all, b"abcdef");
    let short = memory.segment(0x10000 + PAGE - 3, 100, Access::Read).unwrap();
    assert_eq!(short.len, 3);
}

#[test]
fn words_are_single_and_little_endian() {
    let (memory, file) = swapped();
    memory.store_u32(0x10000, 0x0403_0201).unwrap();
    let mut bytes = [0; 4];
    file.read(PAGE, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    memory.store_u16(0x10002, 0x0605).unwrap();
    assert_eq!(memory.load_u32(0x10000), Ok(0x0605_0201));
    assert_eq!(memory.load_u16(0x10000), Ok(0x0201));
    assert_eq!(memory.load_u32(0x10002), Err(AccessError::Unaligned(0x10002)));
    assert_eq!(memory.load_u16(0xffff), Err(AccessError::Unmapped(0xffff)));
}

#[test]
fn rights_are_honoured() {
    let mut memory = GuestMemory::new(Sealing::Required);
    memory.map(DmaMap { writable: false, ..range(0, PAGE) }, Some(memfd(PAGE).unwrap())).unwrap();
    memory.map(DmaMap { readable: false, ..range(PAGE, PAGE) }, Some(memfd(PAGE).unwrap())).unwrap();
    assert_eq!(memory.write(0, b"x"), Err(AccessError::Denied(0)));
    assert_eq!(memory.store_u32(0, 1), Err(AccessError::Denied(0)));
    assert_eq!(memory.segment(0, 1, Access::Write), None);
    assert!(memory.segment(0, 1, Access::Read).is_some());
    assert_eq!(memory.read(PAGE, &mut [0]), Err(AccessError::Denied(PAGE)));
    memory.write(PAGE, b"x").unwrap();
}

#[test]
fn maps_without_usable_file_are_kept_and_fail() {
    let mut memory = GuestMemory::new(Sealing::Required);
    memory.map(range(0, PAGE), None).unwrap();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    memory.map(range(PAGE, PAGE), Some(pipe)).unwrap();
    let misaligned = DmaMap { offset: 1, ..range(2 * PAGE, PAGE) };
    memory.map(misaligned, Some(memfd(2 * PAGE).unwrap())).unwrap();
    for page in 0..3 {
        assert_eq!(memory.read(page * PAGE, &mut [0]), Err(AccessError::Unmapped(page * PAGE)));
        assert_eq!(memory.map(range(page * PAGE, 1), None), Err(MapError::Overlap));
    }
    memory.unmap(PAGE, PAGE).unwrap();
    memory.map(range(PAGE, PAGE), Some(memfd(PAGE).unwrap())).unwrap();
    memory.read(PAGE, &mut [0]).unwrap();
    memory.clear();
    assert_eq!(memory.read(PAGE, &mut [0]), Err(AccessError::Unmapped(PAGE)));
}

#[test]
fn refuses_bad_ranges() {
    let mut memory = GuestMemory::new(Sealing::Required);
    assert_eq!(memory.map(range(0, 0), None), Err(MapError::Range));
    assert_eq!(memory.map(range(2, u64::MAX), None), Err(MapError::Range));
    memory.map(range(u64::MAX, 1), None).unwrap();
    memory.map(range(0, u64::MAX), None).unwrap();
    assert_eq!(memory.map(range(5, 1), None), Err(MapError::Overlap));
    assert_eq!(memory.read(u64::MAX, &mut [0; 2]), Err(AccessError::Unmapped(u64::MAX)));
    assert_eq!(memory.unmap(0, PAGE), Err(MapError::Unknown));
    assert_eq!(memory.unmap(1, PAGE), Err(MapError::Unknown));
    memory.clear();
    let after_end = DmaMap { offset: PAGE, ..range(0, PAGE) };
    assert_eq!(memory.map(after_end, Some(memfd(PAGE).unwrap())), Err(MapError::Short));
    let overflow = DmaMap { offset: u64::MAX - 1, ..range(0, PAGE) };
    assert_eq!(memory.map(overflow, Some(memfd(PAGE).unwrap())), Err(MapError::Short));
}

#[test]
fn refuses_more_than_the_limit() {
    let mut memory = GuestMemory::new(Sealing::Required);
    for index in 0..MAX_MAPS as u64 {
        memory.map(range(index * PAGE, PAGE), None).unwrap();
    }
    assert_eq!(memory.map(range(u64::MAX, 1), None), Err(MapError::Full));
}

#[test]
fn files_that_may_shrink_need_the_explicit_option() {
    let mut memory = GuestMemory::new(Sealing::Required);
    let never_sealable = unsealed(PAGE, MemfdFlags::CLOEXEC);
    assert_eq!(
        memory.map(range(0, PAGE), Some(never_sealable.try_clone().unwrap())),
        Err(MapError::Unsealed)
    );
    // The seal is added where that is allowed, and then it holds.
    let sealable = unsealed(PAGE, MemfdFlags::ALLOW_SEALING);
    memory.map(range(0, PAGE), Some(sealable.try_clone().unwrap())).unwrap();
    assert_eq!(ftruncate(&sealable, 0), Err(Errno::PERM));
    assert_eq!(ftruncate(memfd(PAGE).unwrap(), 0), Err(Errno::PERM));
    let mut trusting = GuestMemory::new(Sealing::Optional);
    trusting.map(range(0, PAGE), Some(never_sealable)).unwrap();
    trusting.write(0, b"x").unwrap();
}

#[test]
fn a_write_seal_leaves_the_map_unusable() {
    let file = unsealed(PAGE, MemfdFlags::ALLOW_SEALING);
    fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SHRINK).unwrap();
    let mut memory = GuestMemory::new(Sealing::Required);
    memory.map(range(0, PAGE), Some(file)).unwrap();
    assert_eq!(memory.write(0, b"x"), Err(AccessError::Unmapped(0)));
}

proptest! {
    /// Random writes through random maps read back as from an array; what lies outside is refused.
    #[test]
    fn behaves_as_an_array(
        pieces in proptest::collection::vec((0..16usize, 1..4usize), 1..8),
        writes in proptest::collection::vec((0..20 * PAGE_LEN, proptest::collection::vec(any::<u8>(), 0..600)), 1..40),
    ) {
        let mut memory = GuestMemory::new(Sealing::Required);
        let mut model = vec![None; 40 * PAGE_LEN];
        for (page, pages) in pieces {
            let (from, len) = (page * PAGE_LEN, pages * PAGE_LEN);
            let slots = &mut model[from..from + len];
            let (from, len) = (from as u64, len as u64);
            let free = slots.iter().all(Option::is_none);
            let result = memory.map(range(from, len), Some(memfd(len).unwrap()));
            prop_assert_eq!(result, if free { Ok(()) } else { Err(MapError::Overlap) });
            if free {
                slots.fill(Some(0));
            }
        }
        for (at, data) in &writes {
            let slots = &mut model[*at..*at + data.len()];
            let there = slots.iter().take_while(|slot| slot.is_some()).count();
            prop_assert_eq!(memory.write(*at as u64, data).is_ok(), there == data.len());
            for (slot, byte) in slots.iter_mut().zip(data).take(there) {
                *slot = Some(*byte);
            }
        }
        for (at, data) in &writes {
            let mut got = vec![0; data.len()];
            let expected = &model[*at..*at + data.len()];
            match memory.read(*at as u64, &mut got) {
                Ok(()) => prop_assert!(got.iter().zip(expected).all(|(got, slot)| Some(*got) == *slot)),
                Err(_) => prop_assert!(expected.iter().any(Option::is_none)),
            }
        }
    }
}
