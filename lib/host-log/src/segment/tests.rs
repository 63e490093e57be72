use super::*;
use proptest::prelude::*;

fn key() -> LogKey {
    LogKey::new(&[5; 32]).unwrap()
}

fn start() -> Start {
    Start { number: 3, seq: 40, hash: [1; 32], signature: [2; 64] }
}

fn lines(n: u64) -> Vec<u8> {
    format!("{{\"seq\":{n}}}\n").repeat(usize::try_from(n % 7).unwrap() + 1).into_bytes()
}

fn batch(n: u64, lines: &[u8]) -> Batch<'_> {
    let first = 41 + n * 10;
    Batch { first, last: first + 9, signature: [4; 64], acknowledged: n, lines }
}

/// A segment of so many frames, and where each frame ends.
fn segment(frames: u64) -> (Vec<u8>, Vec<usize>) {
    let (mut sealer, header) = Sealer::new(&key(), &start()).unwrap();
    let (mut bytes, mut ends) = (header.to_vec(), vec![HEADER]);
    for n in 0..frames {
        let frame = sealer.seal(&batch(n, &lines(n))).unwrap();
        assert_eq!(frame.len(), Batch::length(lines(n).len()));
        bytes.extend(frame);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn whole_frames(bytes: &[u8]) -> usize {
    read(&key(), bytes).unwrap().map_or(0, |segment| segment.frames.len())
}

#[test]
fn what_was_sealed_is_read_and_nothing_of_it_is_plain() {
    let (bytes, ends) = segment(9);
    let read = read(&key(), &bytes).unwrap().unwrap();
    assert_eq!((&read.start, read.whole), (&start(), bytes.len()));
    for (n, frame) in (0..).zip(&read.frames) {
        let lines = lines(n);
        let told = Batch {
            first: frame.first,
            last: frame.last,
            signature: frame.signature,
            acknowledged: frame.acknowledged,
            lines: &frame.lines,
        };
        assert_eq!(told, batch(n, &lines));
        let at = frame.at.clone();
        assert_eq!(at, ends[usize::try_from(n).unwrap()]..at.end);
        assert_eq!(&read.cipher.open(n, at.start, &bytes[at]).unwrap(), frame);
    }
    assert!(!bytes.windows(6).any(|window| window == b"{\"seq\""));
}

#[test]
fn no_two_segments_have_one_key() {
    let ((one, _), (two, _)) = (segment(1), segment(1));
    let frame = |bytes: &[u8]| bytes[HEADER + FRONT..].to_vec();
    assert_ne!(frame(&one), frame(&two), "the same batch, under the same nonce, gave the same ciphertext");
    let (mut sealer, _) = Sealer::new(&key(), &start()).unwrap();
    let [first, second] = [(); 2].map(|()| sealer.seal(&batch(1, b"x\n")).unwrap());
    assert_ne!(first, second);
}

#[test]
fn a_write_that_was_cut_off_at_any_byte_loses_only_itself() {
    let (bytes, ends) = segment(4);
    for cut in 0..bytes.len() {
        let finished = ends.iter().skip(1).filter(|end| **end <= cut).count();
        assert_eq!(whole_frames(&bytes[..cut]), finished, "cut at {cut}");
    }
}

#[test]
fn sectors_that_were_never_written_are_an_unfinished_write_in_the_last_frame_only() {
    let (mut sealer, header) = Sealer::new(&key(), &start()).unwrap();
    let mut bytes = header.to_vec();
    let long = vec![b'x'; 3 * SECTOR];
    let mut last = 0;
    for n in 0..2 {
        last = bytes.len();
        bytes.extend(sealer.seal(&batch(n, &long)).unwrap());
    }
    let sectors = |range: Range<usize>| range.filter(|at| at % SECTOR == 0).collect::<Vec<_>>();
    for hole in sectors(last..bytes.len()) {
        let mut torn = bytes.clone();
        torn[hole..(hole + SECTOR).min(bytes.len())].fill(0);
        assert_eq!(whole_frames(&torn), 1, "hole at {hole}");
    }
    for hole in sectors(HEADER..last - SECTOR) {
        let mut changed = bytes.clone();
        changed[hole..hole + SECTOR].fill(0);
        assert_eq!(read(&key(), &changed).unwrap_err(), Fault::Frame(0), "hole at {hole}");
    }
    let room = vec![0; 64 * SECTOR];
    for hole in sectors(last..bytes.len()) {
        for torn in [hole..(hole + SECTOR).min(bytes.len()), hole..bytes.len(), last..hole] {
            let mut torn_before = [&bytes[..], &room].concat();
            torn_before[torn.clone()].fill(0);
            assert_eq!(whole_frames(&torn_before), 1, "hole at {torn:?}");
        }
    }
    let mut unwritten = bytes.clone();
    unwritten[last..].fill(0);
    assert_eq!(whole_frames(&unwritten), 1);
    assert_eq!(whole_frames(&vec![0; bytes.len()]), 0);
}

#[test]
fn every_bit_of_every_byte_counts() {
    let (bytes, _) = segment(3);
    for room in [0, 64 * SECTOR] {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = [&bytes[..], &vec![0; room]].concat();
                changed[at] ^= 1 << bit;
                let fault = read(&key(), &changed).unwrap_err();
                assert_eq!(at < HEADER, fault == Fault::Header, "byte {at} bit {bit}: {fault}");
                assert!(at < HEADER || matches!(fault, Fault::Frame(0..=2)), "byte {at} bit {bit}: {fault}");
            }
        }
    }
}

#[test]
fn room_behind_the_frames_is_nothing_wrong() {
    for frames in 0..40 {
        let (bytes, ends) = segment(frames);
        let read = read(&key(), &[&bytes[..], &[0; 4 * SECTOR]].concat()).unwrap().unwrap();
        assert_eq!((read.whole, read.frames.len()), (ends[ends.len() - 1], ends.len() - 1));
    }
    // Also where the last frame ends with zeros: one in 256 does.
    let zeros = (0..2000).map(|_| segment(1).0).find(|bytes| bytes.ends_with(&[0])).unwrap();
    for room in [0, SECTOR] {
        assert_eq!(whole_frames(&[&zeros[..], &vec![0; room]].concat()), 1);
    }
    assert!(read(&key(), &[0; 4 * SECTOR]).unwrap().is_none());
}

#[test]
fn frames_that_were_moved_repeated_or_taken_out_are_found() {
    let (bytes, ends) = segment(4);
    let frame = |n: usize| &bytes[ends[n]..ends[n + 1]];
    let with = |order: &[usize]| {
        [&bytes[..HEADER], &order.iter().flat_map(|n| frame(*n).to_vec()).collect::<Vec<_>>()].concat()
    };
    for (order, found) in
        [(&[1, 0, 2, 3][..], 0), (&[0, 2, 3], 1), (&[0, 1, 1, 2, 3], 2), (&[0, 1, 3, 2], 2), (&[1, 2, 3], 0)]
    {
        assert_eq!(read(&key(), &with(order)).unwrap_err(), Fault::Frame(found), "{order:?}");
    }
    let (other, _) = segment(4);
    let mixed = [&other[..HEADER], &bytes[HEADER..]].concat();
    assert_eq!(read(&key(), &mixed).unwrap_err(), Fault::Frame(0), "frames under another segment's header");
}

#[test]
fn another_key_and_a_later_version_are_told_apart() {
    let (bytes, _) = segment(1);
    let other = LogKey::new(&[6; 32]).unwrap();
    assert_eq!(read(&other, &bytes).unwrap_err(), Fault::Key);
    let mut later = bytes.clone();
    later[9] = 2;
    later[29] = 1;
    assert_eq!(read(&key(), &later).unwrap_err(), Fault::Version(2));
    assert!(LogKey::new(&[0; 31]).is_none());
}

#[test]
fn a_batch_that_is_too_long_is_not_sealed() {
    let (mut sealer, _) = Sealer::new(&key(), &start()).unwrap();
    assert_eq!(sealer.seal(&batch(0, &vec![0; crate::MAX_LINES + 1])).unwrap_err(), Fault::Cipher);
    assert_eq!(sealer.seal(&batch(0, &vec![0; crate::MAX_LINES])).unwrap().len(), MAX_FRAME);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2 * HEADER)) {
        let _ = read(&key(), &bytes);
        let (mut segment, _) = segment(1);
        segment.extend(bytes);
        let _ = read(&key(), &segment);
    }
}
