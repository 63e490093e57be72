//! Configuration space and interrupts.

use super::{counter, event};
use crate::{
    IrqAction, IrqData, IrqSet, Irqs,
    pci::{Bar, CONFIG_SIZE, ConfigSpace, ConfigWrite, ERROR, Identity, MSIX, Msix},
};
use proptest::prelude::*;
use rustix::io::Errno;

fn config() -> ConfigSpace {
    let identity =
        Identity { vendor: 0x1d0f, device: 0x8061, subsystem: 0x1234, revision: 3, class: [1, 8, 2] };
    let bars = [
        Bar { index: 0, size: 0x4000, prefetchable: false },
        Bar { index: 2, size: 1 << 33, prefetchable: true },
    ];
    ConfigSpace::new(&identity, &bars, &Msix { vectors: 33, bar: 0, table: 0x2000, pending: 0x3000 })
}

fn word(config: &ConfigSpace, at: u64) -> u32 {
    let mut bytes = [0; 4];
    config.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn says_who_it_is() {
    let mut config = config();
    assert_eq!(config.write(0, &[0xff; 4]), ConfigWrite::Done);
    assert_eq!(word(&config, 0x00), 0x8061_1d0f);
    assert_eq!(word(&config, 0x08), 0x0108_0203);
    assert_eq!(word(&config, 0x2c), 0x1234_1d0f);
    assert_eq!(config.write(0x100, &[0xff; 4]), ConfigWrite::Done);
    assert_eq!(word(&config, 0x100), 0);
    let mut beyond = [1; 8];
    config.read(CONFIG_SIZE as u64 - 4, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    config.read(u64::MAX, &mut beyond);
    assert_eq!(config.write(u64::MAX, &[1; 8]), ConfigWrite::Done);
}

#[test]
fn bars_are_sized_by_writing_ones() {
    let mut config = config();
    for at in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24] {
        config.write(at, &[0xff; 4]);
    }
    let low = |at| u64::from(word(&config, at)) | u64::from(word(&config, at + 4)) << 32;
    assert_eq!(low(0x10), !(0x4000 - 1) | 0b0100);
    assert_eq!(low(0x18), !((1u64 << 33) - 1) | 0b1100);
    assert_eq!(low(0x20), 0);
    config.write(0x10, &0xc0_0000_4321u64.to_le_bytes());
    assert_eq!((word(&config, 0x10), word(&config, 0x14)), (0x4004, 0xc0));
    config.reset();
    assert_eq!(word(&config, 0x10), 0b0100);
}

#[test]
fn capabilities_chain_to_express_and_msix() {
    let mut config = config();
    let mut found = Vec::new();
    let mut at = u64::from(word(&config, 0x34) & 0xff);
    while at != 0 {
        let head = word(&config, at);
        found.push((head & 0xff, at));
        at = u64::from(head >> 8 & 0xff);
    }
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0x10, 0x11]);
    let (express, msix) = (found[0].1, found[1].1);
    assert_eq!(word(&config, express) >> 16, 2);
    assert_ne!(word(&config, express + 4) & 1 << 28, 0);
    assert_eq!(
        (word(&config, msix) >> 16, word(&config, msix + 4), word(&config, msix + 8)),
        (32, 0x2000, 0x3000)
    );
    config.write(msix + 2, &[0xff, 0xff]);
    assert_eq!(word(&config, msix) >> 16, 0xc020);
    // The reset bit reads as 0 and asks for a reset, alone or within a wider write.
    assert_eq!(config.write(express + 8, &[0, 0x50]), ConfigWrite::Done);
    assert_eq!(config.write(express + 8, &[0, 0xd0]), ConfigWrite::FunctionLevelReset);
    assert_eq!(config.write(express + 9, &[0x80]), ConfigWrite::FunctionLevelReset);
    assert_eq!(config.write(express + 4, &[0, 0, 0, 0, 0, 0x80, 0, 0]), ConfigWrite::FunctionLevelReset);
    assert_eq!(word(&config, express + 8) & 0x8000, 0);
    assert!(!config.bus_master());
    config.write(4, &[6, 0]);
    assert!(config.bus_master());
}

fn set(start: u32, count: u32, action: IrqAction, data: IrqData<'_>) -> IrqSet<'_> {
    IrqSet { index: MSIX, start, count, action, data }
}

#[test]
fn interrupts_wait_for_eventfds_and_masks() {
    let mut irqs = Irqs::new([0, 0, 4, 1, 0]);
    irqs.raise(MSIX, 2);
    irqs.raise(MSIX, 4);
    irqs.raise(9, 0);
    let mut bits = [0xff; 2];
    irqs.read_pending_bits(0, &mut bits);
    assert_eq!(bits, [0b100, 0]);
    irqs.read_pending_bits(u64::MAX, &mut bits);
    assert_eq!(bits, [0, 0]);
    let (first, second) = (event(), event());
    let theirs = [&first, &second].map(|fd| fd.try_clone().unwrap());
    irqs.set(set(1, 2, IrqAction::Trigger, IrqData::Eventfds(theirs.into()))).unwrap();
    assert_eq!((counter(&first), counter(&second)), (None, Some(1)));
    irqs.set(set(0, 4, IrqAction::Mask, IrqData::Bool(&[0, 1, 0, 0]))).unwrap();
    irqs.raise(MSIX, 1);
    irqs.raise(MSIX, 1);
    irqs.raise(MSIX, 2);
    assert_eq!((counter(&first), counter(&second)), (None, Some(1)));
    irqs.set(set(0, 4, IrqAction::Unmask, IrqData::None)).unwrap();
    assert_eq!(counter(&first), Some(1));
    irqs.set(set(1, 2, IrqAction::Trigger, IrqData::Bool(&[1, 0]))).unwrap();
    assert_eq!((counter(&first), counter(&second)), (Some(1), None));
    irqs.set(set(1, 1, IrqAction::Trigger, IrqData::Eventfds(Vec::new()))).unwrap();
    irqs.raise(MSIX, 1);
    irqs.clear_pending();
    irqs.set(set(1, 1, IrqAction::Trigger, IrqData::Eventfds(vec![first.try_clone().unwrap()]))).unwrap();
    assert_eq!(counter(&first), None);
    irqs.raise(MSIX, 1);
    assert_eq!(counter(&first), Some(1));
    irqs.disconnect();
    irqs.raise(MSIX, 1);
    assert_eq!(counter(&first), None);
}

#[test]
fn takes_nothing_but_eventfds_within_bounds() {
    let mut irqs = Irqs::new([0, 0, 4, 1, 0]);
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let pipe = IrqData::Eventfds(vec![writer]);
    assert_eq!(irqs.set(set(0, 1, IrqAction::Trigger, pipe)), Err(Errno::INVAL));
    assert_eq!(irqs.set(set(0, 1, IrqAction::Mask, IrqData::Eventfds(vec![event()]))), Err(Errno::INVAL));
    assert_eq!(irqs.set(set(3, 2, IrqAction::Trigger, IrqData::None)), Err(Errno::INVAL));
    assert_eq!(irqs.set(set(u32::MAX, 2, IrqAction::Trigger, IrqData::None)), Err(Errno::INVAL));
    let other = IrqSet { index: 5, ..set(0, 1, IrqAction::Trigger, IrqData::None) };
    assert_eq!(irqs.set(other), Err(Errno::INVAL));
    // A full counter neither blocks nor loses anything.
    let full = event();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let flags = rustix::fs::fcntl_getfl(&full).unwrap() - rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&full, flags).unwrap();
    let report = IrqSet { index: ERROR, ..set(0, 1, IrqAction::Trigger, IrqData::Eventfds(vec![full])) };
    irqs.set(report).unwrap();
    irqs.raise(ERROR, 0);
}

proptest! {
    /// No access to configuration space panics, and read-only bytes stay.
    #[test]
    fn configuration_space_stays_itself(
        writes in proptest::collection::vec((0..5000u64, proptest::collection::vec(any::<u8>(), 0..12)), 0..60),
    ) {
        let mut config = config();
        for (at, data) in writes {
            config.write(at, &data);
        }
        prop_assert_eq!(word(&config, 0), 0x8061_1d0f);
        prop_assert_eq!(word(&config, 0x10) & 0x3fff, 0b0100);
        prop_assert_eq!(word(&config, 0x34), 0x40);
    }
}
