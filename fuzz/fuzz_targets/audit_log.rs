//! What strangers bring to the audit log and to who reads it: notes, checkpoints, keys, paths of tiles, tiles, bundles,
//! entries, attempts, proofs. The first byte chooses what the rest is. What is taken has one form.
#![no_main]

use audit::{
    entry::{Entry, read_attempts},
    note::{Checkpoint, Note, Purpose, Signer, VerifierKey},
    pull::read_sources,
    tile::{Level, Tile, WIDTH, bundle},
    tree::{check_consistency, check_inclusion},
};
use libfuzzer_sys::fuzz_target;
use service::Key;
use std::sync::LazyLock;

static LOG: LazyLock<Signer> =
    LazyLock::new(|| Signer::new("log", Purpose::Log, Key::from_seed(&[7; 32]).unwrap()).unwrap());

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind {
        0 => {
            // Signed by the log's own key, so that what is behind the signature is reached too.
            let note = LOG.note(&text);
            if let Ok(checkpoint) = Checkpoint::open(&note, LOG.public()) {
                assert!(text.starts_with(&checkpoint.text()));
            }
            let _ = Note::parse(&text).map(|note| LOG.public().signed(&note));
        }
        1 => {
            if let Ok(key) = text.parse::<VerifierKey>() {
                assert_eq!(key.to_string(), text);
                let _ = Note::parse(&text).map(|note| key.signed(&note));
            }
        }
        2 => {
            if let Some(tile) = Tile::parse(&text) {
                assert_eq!(tile.to_string(), text);
                let _ = Tile::of(tile.level, tile.index, u64::MAX);
            }
        }
        3 => {
            for width in 1..=WIDTH.min(4) {
                let tile = Tile { level: Level::Entries, index: 0, width };
                if let Ok(entries) = tile.entries(rest) {
                    let mut again = Vec::new();
                    entries.iter().for_each(|entry| bundle(&mut again, entry).unwrap());
                    assert_eq!(again, rest);
                }
                if let Ok(hashes) = tile.hashes(rest) {
                    assert_eq!(hashes.concat(), rest);
                }
            }
        }
        4 => {
            if let Ok(entry) = Entry::parse(rest) {
                assert_eq!(entry.line().unwrap(), rest);
            }
        }
        5 => drop(read_attempts(rest)),
        6 => drop(read_sources(&text)),
        _ => {
            let Some((numbers, rest)) = rest.split_first_chunk::<16>() else { return };
            let (a, b) = (u64::from_le_bytes(numbers[..8].try_into().unwrap()), u64::from_le_bytes(numbers[8..].try_into().unwrap()));
            let hashes = rest.as_chunks::<32>().0;
            let _ = check_inclusion(b"entry", a, b, &[0; 32], hashes);
            let _ = check_consistency((a, &[1; 32]), (b, &[2; 32]), hashes);
        }
    }
});
