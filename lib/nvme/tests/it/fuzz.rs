//! The hostile guest, played by random bytes.

use crate::hostile::play;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_guest_finds_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        play(&bytes);
    }

    /// Bytes that begin by enabling the controller and making its queues get further.
    #[test]
    fn a_hostile_guest_with_queues_finds_nothing(
        tame in 0..2u8, bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        play(&[&[0, tame, 0, 1, 0, 1, 1], &bytes[..]].concat());
    }
}

#[test]
fn the_hostile_guest_gets_somewhere() {
    // Enable, make both queues (four completions), write on queue 1, poll, complete, flush on queue 2, poll, complete.
    let script = [0, 0, 0, 1, 0, 1, 1, 4, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 7, 9, 9, 0, 0, 4, 1, 0, 1];
    assert_eq!(play(&script[..7]), 4);
    assert_eq!(play(&script[..24]), 5);
    assert_eq!(play(&[&script[..], &[0, 0, 0, 0, 0, 0, 0, 0, 7, 9, 9, 0, 0]].concat()), 6);
}
