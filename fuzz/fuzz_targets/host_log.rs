//! A host's log as it comes from a disk that others can write: a segment of three frames that the input changes,
//! and the input itself as a segment. Whatever was done to it, what is read is what was written, from its beginning.
#![no_main]

use host_log::{Batch, Frame, HEADER, LogKey, Sealer, Segment, Start, read};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const FRAMES: u64 = 3;

fn key() -> LogKey {
    LogKey::new(&[3; LogKey::LENGTH]).unwrap()
}

static WRITTEN: LazyLock<(Vec<u8>, Vec<Frame>)> = LazyLock::new(|| {
    let start = Start { number: 1, seq: 0, hash: [0; 32], signature: [5; 64] };
    let (mut sealer, header) = Sealer::new(&key(), &start).unwrap();
    let mut bytes = header.to_vec();
    for n in 1..=FRAMES {
        let lines = vec![b'x'; 200 * usize::try_from(n).unwrap()];
        let batch = Batch { first: n, last: n, signature: [6; 64], acknowledged: 0, lines: &lines };
        bytes.extend(sealer.seal(&batch).unwrap());
    }
    let frames = read(&key(), &bytes).unwrap().unwrap().frames;
    (bytes, frames)
});

fn is_a_beginning(segment: &Segment, length: usize) {
    let (_, frames) = &*WRITTEN;
    assert!(frames.starts_with(&segment.frames), "a frame that was never written");
    let end = segment.frames.last().map_or(HEADER, |frame| frame.at.end);
    assert!(segment.whole == end && end <= length);
}

fuzz_target!(|input: &[u8]| {
    assert!(!matches!(read(&key(), input), Ok(Some(segment)) if !segment.frames.is_empty()));
    // Commands of four bytes: what to do, a place, a value.
    let (written, _) = &*WRITTEN;
    let mut bytes = written.clone();
    for command in input.as_chunks::<4>().0 {
        let [what, high, low, value] = *command;
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_be_bytes([high, low])) % bytes.len();
        match what % 6 {
            0 => bytes[at] ^= value,
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..(at + usize::from(value)).min(bytes.len()))),
            3 => {
                let copied = bytes[at..(at + usize::from(value)).min(bytes.len())].to_vec();
                bytes.extend(copied);
            }
            4 => bytes.resize(bytes.len() + usize::from(value) * 8, 0),
            _ => bytes[at..].iter_mut().take(usize::from(value) * 8).for_each(|byte| *byte = 0),
        }
    }
    if let Ok(Some(segment)) = read(&key(), &bytes) {
        is_a_beginning(&segment, bytes.len());
    }
});
