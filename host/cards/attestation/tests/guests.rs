//! Hostile guests without a process around.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod hostile;

use proptest::prelude::*;

proptest! {
    #[test]
    fn a_hostile_guest_of_the_attestation_card_harms_its_own_function_only(
        acts in proptest::collection::vec(
            (any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..32)), 0..40,
        ),
    ) {
        let bytes: Vec<u8> = acts
            .into_iter()
            .flat_map(|(what, at, data)| {
                [what, at, u8::try_from(data.len()).unwrap()].into_iter().chain(data)
            })
            .collect();
        hostile::play(&bytes);
    }
}

#[test]
fn the_corpus_of_hostile_guests_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../fuzz/corpus/attestation_guests");
    for file in std::fs::read_dir(folder).unwrap() {
        hostile::play(&std::fs::read(file.unwrap().path()).unwrap());
    }
}
