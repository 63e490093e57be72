//! Both ways in.

use crate::{
    image::{bz_image, elf},
    rig::{ASK, END, Rig, TELL, kvm},
};
use hypervisor::vcpu::Outcome;

/// Says "Hi", what ASK gives, what the register gives, and the end.
fn greeting(mut code: Vec<u8>, load_register: &[u8]) -> Vec<u8> {
    code.extend([0xB0, b'H', 0xE6, TELL, 0xB0, b'i', 0xE6, TELL]);
    code.extend([0xE4, ASK, 0xE6, TELL]);
    code.extend(load_register);
    code.extend([0xE7, TELL, 0xE6, END, 0xF4, 0xEB, 0xFD]);
    code
}

#[test]
fn a_pvh_kernel_begins_in_protected_mode_with_its_start_info() {
    let Some(kvm) = kvm() else { return };
    // mov eax, [ebx]; out TELL, eax; … mov eax, [0xD0000000]
    let code = greeting(vec![0x8B, 0x03, 0xE7, TELL], &[0xA1, 0, 0, 0, 0xD0]);
    let rig = Rig::boot(&kvm, 64 << 20, 1, &elf(&code), Some(b"initial"));
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!(rig.said(), b"\x78\xC5\x6E\x33Hi\x5A\xA0\xA1\xA2\xA3");
    let exits = rig.processors.exits()[0].read();
    assert_eq!((exits.port_out, exits.port_in, exits.mmio_read, exits.other), (6, 1, 1, 0));
    // The start info names the module, which lies where it says.
    assert_eq!(rig.word(0x7000 + 12), 1);
    let module = u64::from(rig.word(0x6000));
    assert_eq!(rig.word(module).to_le_bytes(), *b"init");
    assert_eq!(rig.word(0x2_0000).to_le_bytes(), *b"quie");
}

#[test]
fn a_linux_kernel_begins_in_long_mode_with_its_zero_page() {
    let Some(kvm) = kvm() else { return };
    // mov eax, [rsi + 0x202]; out TELL, eax; … mov eax, [abs 0xD0000000] by a 64-bit address
    let start = vec![0x8B, 0x86, 0x02, 0x02, 0, 0, 0xE7, TELL];
    let code = greeting(start, &[0xA1, 0, 0, 0, 0xD0, 0, 0, 0, 0]);
    let rig = Rig::boot(&kvm, 64 << 20, 1, &bz_image(&code), None);
    assert_eq!(rig.run(), Outcome::Off);
    assert_eq!(rig.said(), b"HdrSHi\x5A\xA0\xA1\xA2\xA3");
    // Memory map: low, reserved, the rest up to 64 MiB, ECAM.
    assert_eq!(rig.word(0x7000 + 0x1E8) & 0xFF, 4);
    assert_eq!(rig.word(0x7000 + 0x2D0 + 40), 0x10_0000);
    assert_eq!(rig.word(0x7000 + 0x2D0 + 48), (64 << 20) - 0x10_0000);
}

#[test]
fn a_guest_that_faults_three_times_is_reset_and_nothing_else() {
    let Some(kvm) = kvm() else { return };
    // lidt [0] with an empty table, then ud2
    let rig = Rig::boot(&kvm, 64 << 20, 1, &elf(&[0x0F, 0x0B]), None);
    assert_eq!(rig.run(), Outcome::Reset);
    assert!(!rig.gate.open(), "a machine that has ended does not run again");
}
