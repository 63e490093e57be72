//! Random guests and cards against the whole machine; the fuzz target `machine` plays the same.
#![allow(clippy::unwrap_used)]

mod rig;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_comes_the_machine_stays_whole(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        rig::hostile::play(&bytes);
    }
}

#[test]
fn the_fuzzers_corpus_plays() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/machine");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        rig::hostile::play(&std::fs::read(input).unwrap());
    }
}
