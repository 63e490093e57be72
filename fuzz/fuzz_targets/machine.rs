//! A hostile guest and hostile cards against the whole virtual machine, without KVM: ports, memory-mapped I/O, PCI
//! configuration, MSI-X, queues, plugging, pulling, moving to another process.
#![no_main]

#[path = "../../host/hypervisor/tests/rig/mod.rs"]
mod rig;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rig::hostile::play(bytes);
});
