use super::*;
use guest_memory::{DmaMap, GuestMemory, Sealing, memfd};
use proptest::prelude::*;

fn register<const LENGTH: usize>(transport: &Transport, at: u64) -> [u8; LENGTH] {
    let mut value = [0; LENGTH];
    transport.read(at, &mut value);
    value
}

fn device() -> Transport {
    Transport::new(1, &[16, 100], 3)
}

fn accept(transport: &mut Transport, features: u64) -> u8 {
    for (half, value) in [(0u32, features & 0xffff_ffff), (1, features >> 32)] {
        transport.write(0x08, &half.to_le_bytes());
        transport.write(0x0c, &value.to_le_bytes()[..4]);
    }
    transport.write(0x14, &[0xb]);
    register::<1>(transport, 0x14)[0]
}

#[test]
fn a_driver_gets_what_was_offered_and_must_know_this_version() {
    let mut transport = device();
    transport.write(0x00, &1u32.to_le_bytes());
    assert_eq!(register(&transport, 0x04), 3u32.to_le_bytes(), "version 1 and the platform's addresses");
    for refused in [0, 1, VERSION_1 | 2, VERSION_1 | 1 << 40] {
        assert_eq!(accept(&mut device(), refused) & 8, 0, "{refused:x}");
    }
    for good in [VERSION_1, VERSION_1 | ACCESS_PLATFORM | 1] {
        assert_eq!(accept(&mut device(), good) & 8, 8, "{good:x}");
    }
    assert_eq!(register(&transport, 0x12), 2u16.to_le_bytes());
    assert_eq!(register(&transport, 0x38), [0; 8], "beyond the last");
}

#[test]
fn a_queue_is_set_up_once_and_forgotten_with_a_reset() {
    let mut transport = device();
    transport.write(0x16, &[1, 0]);
    assert_eq!(register(&transport, 0x18), 128u16.to_le_bytes(), "a power of two");
    for (size, kept) in [(3u16, 128u16), (256, 128), (0, 128), (32, 32)] {
        transport.write(0x18, &size.to_le_bytes());
        assert_eq!(register(&transport, 0x18), kept.to_le_bytes());
    }
    transport.write(0x1a, &[9, 0]);
    assert_eq!(transport.vector(1), None, "no such interrupt");
    transport.write(0x1a, &[2, 0]);
    transport.write(0x20, &[1, 2, 3, 4]);
    transport.write(0x24, &[5, 6, 7, 8]);
    assert!(transport.queue(1).is_none());
    transport.write(0x1c, &[1, 0]);
    transport.write(0x20, &[9; 8]);
    transport.write(0x1c, &[0, 0]);
    assert_eq!(register(&transport, 0x20), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(transport.queue(1).is_some() && transport.vector(1) == Some(2) && transport.queue(2).is_none());
    assert_eq!(transport.write(0x14, &[0]), Written::Reset);
    assert!(transport.queue(1).is_none());
    transport.write(0x16, &[2, 0]);
    assert_eq!(register(&transport, 0x18), [0; 2], "there is no third");
}

#[test]
fn a_broken_device_runs_again_after_a_reset_only() {
    let mut transport = device();
    transport.write(0x10, &[2, 0]);
    accept(&mut transport, VERSION_1);
    transport.write(0x14, &[0xf]);
    assert!(transport.runs());
    assert_eq!(transport.needs_reset(), Some(2));
    transport.write(0x14, &[0xf]);
    assert!(!transport.runs() && register::<1>(&transport, 0x14) == [0x4f]);
    transport.write(0x14, &[0]);
    assert_eq!((transport.runs(), register::<1>(&transport, 0x14)), (false, [0]));
}

/// A queue of 8 at fixed addresses in memory of its own.
fn ring() -> (Transport, GuestMemory) {
    let mut memory = GuestMemory::new(Sealing::Required);
    let map = DmaMap { iova: 0, len: 0x4000, offset: 0, readable: true, writable: true };
    memory.map(map, Some(memfd(0x4000).unwrap())).unwrap();
    let mut transport = Transport::new(0, &[8], 2);
    for (at, address) in [(0x20, 0u64), (0x28, 0x1000), (0x30, 0x2000)] {
        transport.write(at, &address.to_le_bytes());
    }
    transport.write(0x1c, &[1, 0]);
    (transport, memory)
}

proptest! {
    #[test]
    fn buffers_come_back_once_each_and_in_order(rounds in proptest::collection::vec((1..4u16, any::<bool>()), 0..40)) {
        let (mut transport, memory) = ring();
        let (mut sent, mut seen) = (0u16, 0u16);
        for (count, quiet) in rounds {
            memory.store_u16(0x1000, u16::from(quiet)).unwrap();
            for nth in 0..count {
                let slot = u64::from(sent.wrapping_add(nth) % 8);
                let head = sent.wrapping_add(nth) % 8;
                let bytes = [&0x3000u64.to_le_bytes()[..], &4u32.to_le_bytes(), &[2, 0, 0, 0]].concat();
                memory.write(u64::from(head) * 16, &bytes).unwrap();
                memory.write(0x1004 + 2 * slot, &head.to_le_bytes()).unwrap();
            }
            sent = sent.wrapping_add(count);
            memory.store_u16(0x1002, sent).unwrap();
            let queue = transport.queue(0).unwrap();
            prop_assert_eq!(queue.waiting(&memory), Ok(count));
            let chains: Vec<_> = (0..count).map(|nth| queue.peek(&memory, nth).unwrap()).collect();
            prop_assert!(chains.iter().all(|chain| chain.room() == 4 && chain.is_all(true) && !chain.is_all(false)));
            let done: Vec<_> = chains.iter().map(|chain| (chain, 3)).collect();
            prop_assert_eq!(queue.complete(&memory, &done), Ok(!quiet));
            prop_assert_eq!(queue.waiting(&memory), Ok(0));
            for _ in 0..count {
                let mut entry = [0; 8];
                memory.read(0x2004 + 8 * u64::from(seen % 8), &mut entry).unwrap();
                let head = u8::try_from(seen % 8).unwrap();
                prop_assert_eq!(entry, [head, 0, 0, 0, 3, 0, 0, 0]);
                seen = seen.wrapping_add(1);
            }
            prop_assert_eq!(memory.load_u16(0x2002).unwrap(), sent);
        }
    }

    #[test]
    fn no_write_to_registers_panics(writes in proptest::collection::vec((0..0x50u64, proptest::collection::vec(any::<u8>(), 0..12)), 0..60)) {
        let mut transport = device();
        for (at, data) in writes {
            transport.write(at, &data);
            let mut all = [0; 0x50];
            transport.read(at, &mut all);
            prop_assert!(transport.queue(0).is_none_or(|queue| queue.size.is_power_of_two() && queue.size <= 16));
        }
    }
}
