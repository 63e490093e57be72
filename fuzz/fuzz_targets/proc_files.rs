//! What hostile processes make `/proc` say: names of programs, mappings and sockets are theirs to choose.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exposure::parse::all(bytes));
