//! Random guests and cards against the whole machine, and state that another process made up; the fuzz targets `machine`
//! and `machine_state` play the same.
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

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let inputs =
        std::fs::read_dir(corpus).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    inputs.collect()
}

#[test]
fn the_fuzzers_corpus_plays() {
    let inputs = corpus("machine");
    assert!(!inputs.is_empty());
    inputs.iter().for_each(|input| rig::hostile::play(input));
}

#[test]
fn state_of_another_process_is_taken_or_refused_whatever_it_says() {
    let inputs = corpus("machine_state");
    assert!(inputs.iter().any(|input| rig::received::play(input)), "some is as this release writes it");
    for input in inputs {
        for at in (0..input.len()).step_by(97) {
            let mut wrong = input.clone();
            wrong[at] ^= 0x5A;
            rig::received::play(&wrong);
            rig::received::play(&input[..at]);
        }
    }
}
