//! A firmware store as it comes from a disk that others can write: its index, that index's table once it is decrypted,
//! and a blob. Nothing opens without its key, and a table has one way to be written.
#![no_main]

use firmware_store::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    assert!(hostile::index(input).is_err());
    if let Some(again) = hostile::table(input) {
        assert_eq!(again, input);
    }
    let (length, file) =
        input.split_first_chunk().map_or((0, input), |(length, file)| (u64::from_be_bytes(*length), file));
    let sha256 = input.split_last_chunk().map_or([0; 32], |(_, sha256)| *sha256);
    assert!(hostile::blob(file, sha256, length).is_err());
});
