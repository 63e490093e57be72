//! The sets of known-good measurements as they come from a host's disk: what is read was signed by the key in the file,
//! and is written again byte for byte.
#![no_main]

use boot_rom::events::Events;
use controller::boot::known_good::KnownGood;
use libfuzzer_sys::fuzz_target;

/// Bytes before what the checksum covers.
const HEADER: usize = 8 + 2 + 16 + 4 + 32;

fn read(bytes: &[u8]) {
    let Ok(known_good) = KnownGood::decode(bytes) else { return };
    assert!(!known_good.sets.is_empty());
    let again = known_good.encode().unwrap();
    assert_eq!(again[HEADER..], bytes[HEADER..]);
    let handed = Events::new();
    let signed = known_good.choose(&handed, &[]).unwrap();
    assert_eq!(signed.set.difference(&signed.set.events), None);
}

fuzz_target!(|input: &[u8]| {
    read(input);
    // The same under a header that fits, as whoever writes the disk would do it.
    let body = input.get(HEADER..).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let sum = controller::boot::sha256(body);
    read(&[b"AZSETS01", &[0, 1][..], &[0; 16], &length, &sum, body].concat());
});
