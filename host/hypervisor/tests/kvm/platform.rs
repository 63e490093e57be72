//! What devices get of the kernel: doorbells, shared memory, interrupt messages.

use crate::{
    image::elf,
    rig::{END, REGISTER, Rig, TELL, kvm, wait},
};
use guest_memory::memfd;
use hypervisor::{
    irq::{Msi, Platform, PlatformError},
    vcpu::Outcome,
};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{pwrite, read, write},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often it was signalled since the last look.
fn count(event: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    read(event, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

/// 32-bit code: `mov dword [address], value`.
fn store(address: u64, value: u32) -> Vec<u8> {
    let address = u32::try_from(address).unwrap();
    [&[0xC7, 0x05], address.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

/// `mov eax, [address]; out TELL, eax`.
fn tell(address: u64) -> Vec<u8> {
    let address = u32::try_from(address).unwrap();
    [&[0xA1], address.to_le_bytes().as_slice(), &[0xE7, TELL]].concat()
}

fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    elf(&[parts.concat().as_slice(), &[0xE6, END, 0xF4, 0xEB, 0xFD]].concat())
}

#[test]
fn doorbells_ring_without_an_exit_until_they_are_taken_away() {
    let Some(kvm) = kvm() else { return };
    let code =
        ended(&[store(REGISTER, 1), store(REGISTER, 2), store(REGISTER + 4, 7), store(REGISTER + 8, 9)]);
    let rig = Rig::boot(&kvm, 64 << 20, 1, &code, None);
    let (any, two, gone) = (event(), event(), event());
    rig.vm.doorbell(REGISTER + 4, 4, None, any.as_fd(), true).unwrap();
    rig.vm.doorbell(REGISTER, 4, Some(2), two.as_fd(), true).unwrap();
    rig.vm.doorbell(REGISTER + 8, 4, Some(9), gone.as_fd(), true).unwrap();
    rig.vm.doorbell(REGISTER + 8, 4, Some(9), gone.as_fd(), false).unwrap();
    assert_eq!(rig.vm.doorbell(REGISTER, 2, Some(1 << 16), any.as_fd(), true), Err(PlatformError::Range));
    assert_eq!(rig.vm.doorbell(REGISTER, 3, Some(1), any.as_fd(), true), Err(PlatformError::Range));
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!((count(&any), count(&two), count(&gone)), (1, 1, 0));
    assert_eq!(rig.said(), [1, 0, 0, 0, 9, 0, 0, 0]);
    assert_eq!(rig.processors.exits()[0].read().mmio_write, 2);
}

#[test]
fn shared_memory_is_the_files_until_it_is_taken_away() {
    let Some(kvm) = kvm() else { return };
    let rig = Rig::boot(&kvm, 64 << 20, 1, &ended(&[tell(REGISTER), tell(REGISTER + 0x1000)]), None);
    let file = memfd(0x3000).unwrap();
    pwrite(&file, b"card", 0x1000).unwrap();
    let map = |address, len, offset| rig.vm.map_shared(address, len, file.as_fd(), offset);
    let kept = map(REGISTER, 0x1000, 0x1000).unwrap();
    let gone = map(REGISTER + 0x1000, 0x1000, 0x1000).unwrap();
    rig.vm.unmap_shared(gone);
    for (address, len, offset) in [
        (REGISTER, 0x1000, 0),
        (0, 0x1000, 0),
        (REGISTER + 0x2000, 0x1000, u64::MAX - 0xFFF),
        (REGISTER + 0x2004, 0x1000, 0),
        (REGISTER + 0x2000, 0, 0),
    ] {
        assert_eq!(map(address, len, offset), Err(PlatformError::Range), "{address:x} {len:x} {offset:x}");
    }
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!(&rig.said()[..4], b"card");
    assert_eq!(rig.processors.exits()[0].read().mmio_read, 1, "the second page is the bus's again");
    rig.vm.unmap_shared(kept);
}

#[test]
fn a_message_that_comes_while_it_is_masked_waits() {
    let Some(kvm) = kvm() else { return };
    // The local APIC on; say so; wait for a request for vector 0x41; tell the requests for 0x40 to 0x5F.
    let wait_for = vec![0xE6, TELL, 0xA1, 0x20, 0x02, 0xE0, 0xFE, 0xA8, 0x02, 0x74, 0xF7, 0xE7, TELL];
    let rig = Rig::boot(&kvm, 64 << 20, 1, &ended(&[store(0xFEE0_00F0, 0x1FF), wait_for]), None);
    let message = |vector| Some(Msi { address: 0xFEE0_0000, data: vector });
    let [now, later, never, gone] = std::array::from_fn(|_| Arc::new(event()));
    let routes = [(&now, message(0x40)), (&later, None), (&never, None), (&gone, message(0x43))];
    let [_, later_route, _, gone_route] =
        routes.map(|(event, message)| rig.vm.bind_msi(Arc::clone(event), message).unwrap());
    rig.vm.unbind_msi(gone_route);
    assert!(rig.gate.open());
    wait("the local APIC", || rig.said().len() == 1);
    for event in [&now, &later, &never, &gone] {
        write(event, &1u64.to_ne_bytes()).unwrap();
    }
    rig.vm.update_msi(&later_route, message(0x41)).unwrap();
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!(&rig.said()[1..], [0b11, 0, 0, 0]);
    assert_eq!((count(&never), count(&gone)), (1, 1), "they stay in their eventfds");
}
