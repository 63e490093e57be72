use super::*;
use proptest::prelude::*;
use seal::Secret;
use std::time::Duration;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn key(bytes: &[u8]) -> VolumeKey {
    let mut bytes: [u8; 64] = bytes.try_into().unwrap();
    VolumeKey::new(Secret::take(&mut bytes).unwrap()).unwrap()
}

/// key, number, plaintext, ciphertext
fn vectors(text: &str) -> Vec<(VolumeKey, u64, Vec<u8>, Vec<u8>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let [k, number, plain, cipher] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            (key(&hex(k)), number.parse().unwrap(), hex(plain), hex(cipher))
        })
        .collect()
}

/// The first blocks of a unit do not depend on the later ones, so short vectors are checked as the head
/// of a unit.
fn check(text: &str, least: usize) {
    let vectors = vectors(text);
    assert!(vectors.len() >= least);
    for kernel in Kernel::available() {
        for (key, number, plain, cipher) in &vectors {
            let xts = Xts::with(key, *kernel, Unit::B512).unwrap();
            let (mut unit, mut out) = ([0; SECTOR], [0; SECTOR]);
            unit[..plain.len()].copy_from_slice(plain);
            xts.encrypt_slice(*number, &unit, &mut out);
            assert_eq!(&out[..cipher.len()], cipher, "{kernel:?}, encrypt {number}");
            out[cipher.len()..].fill(0);
            xts.decrypt_slice(*number, &mut out);
            assert_eq!(&out[..plain.len()], plain, "{kernel:?}, decrypt {number}");
        }
    }
}

#[test]
fn ieee_1619_vectors() {
    check(include_str!("../testdata/ieee1619.txt"), 5);
}

#[test]
fn nist_cavp_vectors() {
    check(include_str!("../testdata/nist-cavp.txt"), 80);
}

#[test]
fn a_fast_processor_is_tested_with_its_fast_kernel() {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let fast = ["avx512f", "avx512bw", "avx512dq", "vaes", "vpclmulqdq", "aes"].iter().all(|flag| has(flag));
    assert_eq!(Kernel::available().contains(&Kernel::Vaes512), fast);
}

#[test]
fn bytes_beyond_the_last_whole_unit_are_left_alone() {
    for kernel in Kernel::available() {
        let xts = Xts::with(&VolumeKey::generate().unwrap(), *kernel, Unit::B512).unwrap();
        let mut data = [9; 1500];
        xts.decrypt_slice(0, &mut data);
        assert_ne!(data[..1024], [9; 1024]);
        assert_eq!(data[1024..], [9; 476]);
    }
}

#[test]
fn the_same_text_differs_in_every_sector_and_under_every_key() {
    let text = [1; 4 * SECTOR];
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let xts = Xts::new(&VolumeKey::generate().unwrap()).unwrap();
        let mut out = [0; 4 * SECTOR];
        xts.encrypt_slice(0, &text, &mut out);
        assert!(out.chunks(16).all(|block| seen.insert(block.to_vec())));
    }
}

#[test]
fn key_schedules_lie_in_locked_memory() {
    let locked = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let key = VolumeKey::generate().unwrap();
    for kernel in Kernel::available() {
        // Other tests of this process lock and unlock in the meantime: it is seen in one try of several.
        let seen = (0..20).any(|_| {
            let before = locked();
            let ciphers: Vec<_> = (0..64).map(|_| Xts::with(&key, *kernel, Unit::B512).unwrap()).collect();
            // 64 pairs of schedules take at least 64 KiB; other tests in this process hold less than that.
            let after = locked();
            drop(ciphers);
            after >= before.saturating_sub(60) + 56
        });
        assert!(seen, "{kernel:?}");
    }
}

#[test]
fn the_measurement_gives_every_case() {
    let cases = measure::measure(3, Duration::from_micros(100)).unwrap();
    assert_eq!(cases.len(), 4 * Kernel::available().len());
    assert!(cases.iter().all(|case| case.median > 0.0 && case.best >= case.median));
}

proptest! {
    /// Bit for bit: any key, any first sector (wrapping too), any length, any alignment, any cut.
    #[test]
    fn the_kernels_agree(
        bytes in prop::collection::vec(any::<u8>(), 64),
        first in prop_oneof![any::<u64>(), Just(u64::MAX - 3), 0..100_u64],
        units in 1..70_usize,
        offset in 0..64_usize,
        cut in 0..70_usize,
        unit in prop_oneof![Just(Unit::B512), Just(Unit::B4096)],
    ) {
        prop_assume!(bytes[..32] != bytes[32..]);
        let key = key(&bytes);
        let len = units * unit.size();
        let data: Vec<u8> = (0..len + 64).map(|at| ((at * 31 + at / 7) % 251).to_le_bytes()[0]).collect();
        let plain = &data[offset..offset + len];
        let mut expected = vec![0; len];
        Xts::with(&key, Kernel::AwsLc, unit).unwrap().encrypt_slice(first, plain, &mut expected);
        for kernel in Kernel::available() {
            let xts = Xts::with(&key, *kernel, unit).unwrap();
            let mut out = vec![0; len + 64];
            xts.encrypt_slice(first, plain, &mut out[offset..offset + len]);
            prop_assert!(out[offset..offset + len] == expected[..]);
            prop_assert!(out[..offset].iter().chain(&out[offset + len..]).all(|byte| *byte == 0));
            let (head, tail) = plain.split_at(cut.min(units) * unit.size());
            let mut gathered = vec![0; len];
            let pieces = [head, tail].map(|piece| (piece.as_ptr(), piece.len()));
            // SAFETY: the pieces are slices, and together as long as `gathered`.
            unsafe { xts.encrypt_gather(first, pieces, gathered.as_mut_ptr()) };
            prop_assert!(gathered == expected);
            let (head, tail) = out[offset..offset + len].split_at_mut(cut.min(units) * unit.size());
            let pieces = [(head.as_mut_ptr(), head.len()), (tail.as_mut_ptr(), tail.len())];
            // SAFETY: two exclusive slices.
            unsafe { xts.decrypt_pieces(first, pieces) };
            prop_assert!(&out[offset..offset + len] == plain);
        }
    }
}
