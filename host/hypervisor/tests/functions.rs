//! Functions of a small device: BARs that move, sharing, MSI-X, and cards that misbehave.
#![allow(clippy::unwrap_used)]

mod rig;

use hypervisor::{
    irq::{Msi, Power},
    layout::{self, GED_GSI},
    machine::MachineError,
};
use rig::{
    device::{TestDevice, serve, with_doorbells},
    guest::{BAR, EJECT, EVENTS, FILLED, Guest, LEAVING, eventually, pair},
};
use std::{thread, time::Instant};
use wire::hypervisor::{SlotState, SlotStatistics};

/// The copy register of the small device.
const COPY: u64 = 0x100;

fn ring(guest: &Guest, bar: u64) {
    guest.machine.mmio.write(bar + COPY, &0x1000u64.to_le_bytes());
    // The write was posted; an answer to a read comes after it.
    guest.read32(bar);
}

#[test]
fn the_bus_is_seen_both_ways() {
    let guest = Guest::new();
    let (socket, _server) = serve(TestDevice::new(None, None));
    guest.machine.attach(7, socket).unwrap();
    for (slot, id) in [(0u8, 0x1237_8086), (7, 0x8061_1d0f), (6, u32::MAX), (8, u32::MAX)] {
        guest.outl(0xCF8, 1 << 31 | u32::from(slot) << 11);
        assert_eq!((guest.config(slot, 0), guest.inl(0xCFC)), (id, id), "slot {slot}");
    }
    assert_eq!(guest.inl(0xCF8), 1 << 31 | 8 << 11);
    guest.outl(0xCF8, 1 << 31 | 7 << 11 | 1 << 8);
    assert_eq!(guest.inl(0xCFC), u32::MAX, "there is one function in a slot");
    guest.outl(0xCF8, 1 << 31 | 1 << 16 | 7 << 11);
    assert_eq!(guest.inl(0xCFC), u32::MAX, "there is one bus");
    assert_eq!(guest.inl(0xCFE), u32::MAX, "words are aligned");
    assert_eq!(guest.config(7, 0x2c) & 0xFFFF, 0x1d0f);
    assert_eq!(guest.config(7, 0x3c) & 0xFF00, 0, "there is no pin");
}

#[test]
fn bars_move_and_what_is_shared_moves_along() {
    let guest = Guest::new();
    let (socket, server) = serve(with_doorbells());
    guest.machine.attach(3, socket).unwrap();
    let clean = || guest.recorder.is_clean();
    guest.set_config(3, 0x10, u32::MAX);
    guest.set_config(3, 0x14, u32::MAX);
    assert_eq!((guest.config(3, 0x10), guest.config(3, 0x14)), (0xFFFF_C004, u32::MAX));
    assert!(clean());
    let wide = layout::mmio64(46).start + 0x4000;
    for bar in [BAR, BAR + 0x4000, wide] {
        guest.enable(3, bar);
        guest.write32(bar + 8, 0x1234_5678);
        assert_eq!(guest.read32(bar + 8), 0x1234_5678);
        let state = guest.recorder.state();
        assert_eq!(state.doorbells, [(bar + 0x1000, 4, None), (bar + 0x1004, 4, Some(7))]);
        assert!(state.shared.values().any(|shared| *shared == (bar + 0x1000, 0x1000, 0x1000)));
        assert_eq!(state.shared.len(), 1);
    }
    assert_eq!(guest.read32(BAR + 8), u32::MAX);
    // Over memory, over the I/O APIC, over ECAM, past the end: nowhere.
    for bar in [0, 0x10_0000, layout::IOAPIC, layout::ECAM.start, u64::MAX << 14, layout::MMIO32.end] {
        guest.enable(3, bar);
        assert!(clean(), "{bar:#x}");
    }
    guest.enable(3, BAR);
    assert!(!clean());
    guest.set_config(3, 4, 4);
    assert!(clean(), "memory space is off");
    assert_eq!(guest.read32(BAR + 8), u32::MAX);
    guest.enable(3, BAR);
    // Function level reset: as after power on, and the guest's memory still there.
    guest.set_config(3, 0x48, 0x8000);
    assert!(clean());
    assert_eq!((guest.config(3, 0x10), guest.config(3, 4) & 0xFFFF), (4, 0));
    guest.enable(3, BAR);
    ring(&guest, BAR);
    guest.machine.detach(3, true).unwrap();
    assert!(clean());
    assert_eq!(server.join().unwrap().resets, 2);
}

#[test]
fn of_two_bars_on_one_address_the_first_keeps_it() {
    let guest = Guest::new();
    for slot in [1, 2] {
        guest.machine.attach(slot, serve(TestDevice::new(None, None)).0).unwrap();
        guest.enable(slot, BAR + 0x8000);
        guest.write32(BAR + 0x8008, u32::from(slot));
    }
    assert_eq!(guest.read32(BAR + 0x8008), 2);
    guest.enable(1, BAR);
    assert_eq!(guest.read32(BAR + 8), 2, "both writes went to the first");
    guest.write32(BAR + 0x8008, 9);
    assert_eq!(guest.read32(BAR + 0x8008), 9, "the second appears when the first has left");
    guest.enable(2, BAR);
    assert_eq!(guest.read32(BAR + 8), 2);
    guest.machine.detach(1, true).unwrap();
    assert_eq!(guest.read32(BAR + 8), 9, "and when it is pulled out");
}

#[test]
fn masked_vectors_wait_in_the_pending_bits() {
    let guest = Guest::new();
    let (socket, _server) = serve(TestDevice::new(None, None));
    guest.machine.attach(5, socket).unwrap();
    guest.enable(5, BAR);
    let message = Msi { address: 0xFEE0_0000, data: 0x40 };
    let pending = || guest.read32(BAR + 0x3000);
    assert_eq!(guest.config(5, 0x80) >> 16, 32, "33 vectors, off");
    assert_eq!(guest.read32(BAR + 0x200c), 1, "vectors start masked");
    ring(&guest, BAR);
    guest.vector(BAR, 0, true);
    guest.msix(5, 0x80);
    // It was raised while MSI-X was off, and arrives when the eventfds do.
    eventually("the signal", || pending() == 1);
    assert!(guest.recorder.delivered().is_empty());
    guest.vector(BAR, 0, false);
    assert_eq!((guest.recorder.delivered(), pending()), (vec![message], 0));
    ring(&guest, BAR);
    assert_eq!(guest.recorder.delivered(), [message]);
    // The function's mask, likewise; several signals are one.
    guest.msix(5, 0xC0);
    ring(&guest, BAR);
    ring(&guest, BAR);
    assert_eq!((guest.recorder.delivered(), pending()), (vec![], 1));
    guest.msix(5, 0x80);
    assert_eq!((guest.recorder.delivered(), pending()), (vec![message], 0));
    assert_eq!((guest.read32(BAR + 0x2000), guest.read32(BAR + 0x2008)), (0xFEE0_0000, 0x40));
    // An address that is no local APIC's raises nothing.
    guest.write32(BAR + 0x2000, 0x1000);
    ring(&guest, BAR);
    assert!(guest.recorder.delivered().is_empty());
    guest.msix(5, 0);
    assert!(guest.recorder.state().routes.is_empty());
    assert_eq!(pending(), 0);
}

#[test]
fn odd_accesses_do_nothing() {
    let guest = Guest::new();
    let (socket, _server) = serve(TestDevice::new(None, None));
    guest.machine.attach(5, socket).unwrap();
    guest.enable(5, BAR);
    guest.vector(BAR, 0, true);
    for len in [1, 2, 3, 5, 8] {
        for at in [0x1FFC, 0x1FFF, 0x2001, 0x2006, 0x220F, 0x3005, 0x3FFD] {
            guest.machine.mmio.write(BAR + at, &vec![0xA5; len]);
            let mut read = vec![0; len];
            guest.machine.mmio.read(BAR + at, &mut read);
        }
    }
    assert_eq!((guest.read32(BAR + 0x2000), guest.read32(BAR + 0x200C)), (0xFEE0_0000, 1));
    assert_eq!(guest.config(5, 0) & 0xFFFF, 0x1d0f);
    let mut wide = [0; 8];
    guest.machine.mmio.read(layout::ECAM.start, &mut wide);
    assert_eq!(wide, [0xFF; 8]);
}

#[test]
fn the_guest_is_told_and_lets_go_in_its_own_time() {
    let guest = Guest::new();
    let (socket, server) = serve(TestDevice::new(None, None));
    assert_eq!(guest.machine.attach(0, pair().0).unwrap_err().code(), "slot.unknown");
    assert_eq!(guest.machine.attach(32, pair().0).unwrap_err().code(), "slot.unknown");
    guest.machine.attach(31, socket).unwrap();
    assert_eq!(guest.machine.attach(31, pair().0).unwrap_err().code(), "slot.taken");
    let line = || guest.recorder.state().lines.get(&GED_GSI).copied();
    assert_eq!(line(), Some(true));
    assert_eq!((guest.inb(EVENTS), guest.inb(EVENTS), line()), (1, 0, Some(false)));
    assert_eq!((guest.inl(FILLED), guest.inl(LEAVING)), (1 << 31, 0));
    guest.outl(FILLED, 1 << 31);
    assert_eq!(guest.inl(FILLED), 0);
    // The guest alone does not decide what is in its slots.
    guest.outl(EJECT, u32::MAX);
    assert_eq!(guest.machine.slots(), [SlotStatistics { slot: 31, state: SlotState::Present }]);
    guest.machine.detach(31, false).unwrap();
    guest.machine.detach(31, false).unwrap();
    assert_eq!((guest.inb(EVENTS), guest.inl(LEAVING)), (1, 1 << 31));
    assert_eq!(guest.machine.slots(), [SlotStatistics { slot: 31, state: SlotState::Leaving }]);
    assert_eq!(guest.config(31, 0) & 0xFFFF, 0x1d0f);
    assert_eq!(guest.mappings(), 2);
    guest.outl(EJECT, 1 << 31);
    assert!(guest.machine.slots().is_empty());
    assert_eq!(guest.config(31, 0), u32::MAX);
    assert!(server.join().unwrap().memory.read(0, &mut [0]).is_err(), "the card has no memory left");
    assert_eq!(guest.mappings(), 1);
    assert!(guest.recorder.is_clean());
    assert_eq!(guest.machine.detach(31, true).unwrap_err().code(), "slot.empty");
    assert_eq!(guest.machine.detach(200, false).unwrap_err().code(), "slot.empty");
}

#[test]
fn a_card_that_is_gone_is_found_and_leaves_nothing() {
    let guest = Guest::new();
    let (socket, theirs) = pair();
    let server = thread::spawn(move || {
        let mut session = vfio_user::Session::new(theirs);
        let mut device = with_doorbells();
        // As many steps as an attach and the guest's own set-up need, then it dies.
        let end = Instant::now() + std::time::Duration::from_secs(1);
        while Instant::now() < end && session.step(&mut device).is_ok() {
            thread::yield_now();
        }
    });
    guest.machine.attach(9, socket).unwrap();
    guest.enable(9, BAR);
    guest.msix(9, 0x80);
    guest.vector(BAR, 0, false);
    assert!(guest.machine.find_lost().is_empty());
    server.join().unwrap();
    assert_eq!(guest.machine.find_lost(), [9]);
    assert!(guest.machine.find_lost().is_empty());
    assert_eq!(guest.machine.slots(), [SlotStatistics { slot: 9, state: SlotState::Lost }]);
    assert_eq!((guest.read32(BAR), guest.config(9, 0)), (u32::MAX, u32::MAX));
    assert!(guest.recorder.is_clean());
    assert_eq!(guest.mappings(), 1);
    assert_eq!(guest.inl(LEAVING), 1 << 9);
    guest.outl(EJECT, 1 << 9);
    assert!(guest.machine.slots().is_empty());
    guest.machine.attach(9, serve(TestDevice::new(None, None)).0).unwrap();
}

#[test]
fn a_processor_that_waits_for_a_silent_card_is_freed_by_force() {
    let guest = Guest::new();
    let mut device = TestDevice::new(None, None);
    // The guest's write is put off until the connection ends.
    device.deferrals = usize::MAX;
    let (socket, server) = serve(Patient(device));
    guest.machine.attach(9, socket).unwrap();
    let machine = guest.machine.clone();
    let processor = thread::spawn(move || machine.mmio.write(layout::ECAM.start + (9 << 15) + 4, &[6, 0]));
    thread::sleep(std::time::Duration::from_millis(200));
    assert!(!processor.is_finished());
    let start = Instant::now();
    guest.machine.detach(9, true).unwrap();
    processor.join().unwrap();
    assert!(start.elapsed().as_secs() < 5);
    assert!(guest.recorder.is_clean());
    drop(server);
}

/// The small device, which resets at once.
struct Patient(TestDevice);

impl vfio_user::Device for Patient {
    fn info(&self) -> vfio_user::DeviceInfo {
        vfio_user::DeviceInfo { resettable: false, ..self.0.info() }
    }

    fn region(&self, index: u32) -> Option<&vfio_user::Region> {
        self.0.region(index)
    }

    fn irq(&self, index: u32) -> Option<vfio_user::Irq> {
        self.0.irq(index)
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), rustix::io::Errno> {
        self.0.region_read(region, offset, data)
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), rustix::io::Errno> {
        self.0.region_write(region, offset, data)
    }

    fn dma_map(
        &mut self,
        map: vfio_user::DmaMap,
        file: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), rustix::io::Errno> {
        self.0.dma_map(map, file)
    }

    fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), rustix::io::Errno> {
        self.0.dma_unmap(iova, len)
    }

    fn dma_unmap_all(&mut self) -> Result<(), rustix::io::Errno> {
        self.0.dma_unmap_all()
    }

    fn set_irqs(&mut self, set: vfio_user::IrqSet<'_>) -> Result<(), rustix::io::Errno> {
        self.0.set_irqs(set)
    }

    fn reset(&mut self) -> Result<(), rustix::io::Errno> {
        Ok(())
    }
}

#[test]
fn what_is_no_function_is_refused() {
    let guest = Guest::new();
    let (socket, theirs) = pair();
    drop(theirs);
    assert_eq!(guest.machine.attach(1, socket).unwrap_err().code(), "function.gone");
    let (socket, theirs) = pair();
    rustix::io::write(&theirs, &[0; 64]).unwrap();
    let refused = guest.machine.attach(1, socket).unwrap_err();
    assert!(matches!(refused, MachineError::Function(_)));
    assert_eq!(refused.code(), "function.protocol");
    assert!(guest.machine.slots().is_empty());
    assert_eq!(guest.mappings(), 1);
}

#[test]
fn power_and_console_reach_the_host() {
    let guest = Guest::new();
    for byte in b"hello\n" {
        guest.machine.pio.write(0x3F8, &[*byte]);
    }
    assert_eq!(*guest.console.0.lock().unwrap(), b"hello\n");
    assert_eq!(guest.machine.console_input(&[b'x'; 100]), 64);
    assert_eq!((guest.inb(0x3FD) & 1, guest.inb(0x3F8)), (1, b'x'));
    guest.machine.press_power_button();
    guest.machine.set_generation([9; 16]);
    assert_eq!(guest.inb(EVENTS), 2 | 4);
    let power = layout::POWER.start;
    guest.machine.pio.write(power, &[0x20]);
    guest.machine.pio.write(power, &[5 << 2]);
    guest.machine.pio.write(power + 2, &[0]);
    assert!(guest.recorder.state().power.is_empty());
    guest.machine.pio.write(power, &[0x20 | 5 << 2]);
    guest.machine.pio.write(power + 2, &[1]);
    assert_eq!(guest.recorder.state().power, [Power::Off, Power::Reset]);
}
