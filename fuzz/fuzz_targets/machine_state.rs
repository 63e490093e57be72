//! State of a machine from another process: whatever it says, the machine is refused or goes on, without KVM.
#![no_main]

#[path = "../../host/hypervisor/tests/rig/mod.rs"]
mod rig;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rig::received::play(bytes);
});
