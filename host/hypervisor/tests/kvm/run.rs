//! Several processors, and standing still.

use crate::{
    image::elf,
    rig::{END, Rig, TELL, kvm, wait},
};
use hypervisor::vcpu::Outcome;
use std::time::Duration;

/// `mov dword [address], value` in 32-bit code.
fn store(address: u32, value: u32) -> Vec<u8> {
    [&[0xC7, 0x05], address.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

#[test]
fn all_processors_start_by_messages() {
    let Some(kvm) = kvm() else { return };
    const ICR: u32 = 0xFEE0_0300;
    // INIT to all others, then start-up at 0x8000; then wait until the word at 0x8100 is 3.
    let mut code = [store(ICR, 0x000C_4500), store(ICR, 0x000C_4608)].concat();
    code.extend([0x83, 0x3D, 0x00, 0x81, 0, 0, 3, 0x75, 0xF7, 0xE6, END, 0xF4, 0xEB, 0xFD]);
    let rig = Rig::boot(&kvm, 64 << 20, 4, &elf(&code), None);
    // Real mode, CS = 0x800: mov al, 'P'; out TELL, al; lock inc word [cs:0x100]; hlt; jmp
    let start = [0xB0, b'P', 0xE6, TELL, 0xF0, 0x2E, 0xFF, 0x06, 0x00, 0x01, 0xF4, 0xEB, 0xFD];
    rig.memory.write(0x8000, &start).unwrap();
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!(rig.said(), b"PPP");
}

#[test]
fn paused_processors_stand_still_and_go_on() {
    let Some(kvm) = kvm() else { return };
    const COUNT: u64 = 0x30_0000;
    // inc ecx; mov [COUNT], ecx; jmp
    let code = [0x41, 0x89, 0x0D, 0x00, 0x00, 0x30, 0x00, 0xEB, 0xF7];
    let rig = Rig::boot(&kvm, 64 << 20, 2, &elf(&code), None);
    for _ in 0..20 {
        let before = rig.word(COUNT);
        assert!(rig.gate.open());
        wait("the guest to count", || rig.word(COUNT) != before);
        rig.gate.close();
        let stopped = rig.word(COUNT);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(rig.word(COUNT), stopped);
    }
    assert_eq!(rig.gate.outcome(), None);
}
