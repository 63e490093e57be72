//! A hostile guest against the NVMe controller: registers, queues, memory, doorbells, completions.
#![no_main]

#[path = "../../lib/nvme/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    hostile::play(bytes);
});
