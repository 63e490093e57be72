//! The fast kernel: VAES and AVX-512. Four blocks fill a register, a 512-byte unit eight registers, which
//! is as many chains as the AES units need to be always busy. What costs at small units is the tweak: one
//! block through AES on its own, at full latency, for each unit. So the tweaks of up to 32 units go
//! through AES together, and their powers of alpha are made in registers.

use crate::{
    Direction, Unit, XtsError,
    schedule::{ROUND_KEYS, Schedule},
};
use seal::VolumeKey;
use std::{
    arch::{asm, x86_64::*},
    array,
};

/// Units whose tweaks are made together.
const BATCH: usize = 32;
/// Registers of blocks that are worked on together: 512 bytes.
const WIDTH: usize = 8;

/// Whether this processor and system can run the kernel.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("aes")
}

/// A key for the fast kernel. Made only where [`supported`].
pub(crate) struct Cipher(Schedule);

impl Cipher {
    pub(crate) fn new(key: &VolumeKey) -> Result<Self, XtsError> {
        if !supported() {
            return Err(XtsError::Unsupported);
        }
        // SAFETY: `supported` has seen the AES instructions.
        Ok(Self(unsafe { Schedule::new(key) }?))
    }

    /// # Safety
    /// As for `Xts::encrypt`, with `units` whole units.
    pub(crate) unsafe fn run(
        &self,
        direction: Direction,
        unit: Unit,
        first: u64,
        src: *const u8,
        dst: *mut u8,
        units: usize,
    ) {
        let work = match (direction, unit) {
            (Direction::Encrypt, Unit::B512) => units_of::<true, 1>,
            (Direction::Encrypt, Unit::B4096) => units_of::<true, 8>,
            (Direction::Decrypt, Unit::B512) => units_of::<false, 1>,
            (Direction::Decrypt, Unit::B4096) => units_of::<false, 8>,
        };
        // SAFETY: a Cipher exists only where `supported` has seen the instructions; the caller promises that `units` of
        // this size are readable at `src` and writable at `dst`.
        unsafe { work(&self.0, first, src, dst, units) };
    }
}

/// Works through units of `PARTS` times 512 bytes.
///
/// # Safety
/// So many units are readable at `src` and writable at `dst`, and the processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes,vpclmulqdq")]
unsafe fn units_of<const ENCRYPT: bool, const PARTS: usize>(
    keys: &Schedule,
    first: u64,
    src: *const u8,
    dst: *mut u8,
    units: usize,
) {
    let schedule = if ENCRYPT { keys.encrypt() } else { keys.decrypt() };
    let size = PARTS * WIDTH * 64;
    let mut done = 0;
    while done < units {
        let batch = (units - done).min(BATCH);
        let tweaks = tweaks(keys.tweak(), first.wrapping_add(done as u64), batch);
        // SAFETY: a schedule has ROUND_KEYS keys. They fit the registers only once the tweaks are made.
        let data_keys: [__m512i; ROUND_KEYS] = array::from_fn(|round| unsafe { round_key(schedule, round) });
        for tweak in tweaks.0.iter().take(batch) {
            let mut powers = powers(*tweak);
            for part in 0..PARTS {
                if part > 0 {
                    powers = powers.map(|power| times_alpha_bytes::<4, 12>(power));
                }
                let offset = done * size + part * WIDTH * 64;
                let (src, dst) = (src.wrapping_add(offset), dst.wrapping_add(offset));
                // SAFETY: `done` is below `units`, so these 512 bytes lie within the caller's promise.
                unsafe { blocks::<ENCRYPT>(&data_keys, &powers, src, dst) };
            }
            done += 1;
        }
    }
}

/// One AES round key in all four lanes.
///
/// # Safety
/// `schedule` has ROUND_KEYS keys, and `round` is below that.
#[target_feature(enable = "avx512f")]
unsafe fn round_key(schedule: *const u8, round: usize) -> __m512i {
    // SAFETY: the 16 bytes of this round's key lie within the schedule; the instruction takes any alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(schedule.wrapping_add(16 * round).cast()) })
}

/// Encrypted tweaks.
#[repr(align(64))]
struct Tweaks([__m128i; BATCH]);

/// Encrypts the numbers of `count` units from `first` on, four to a register.
#[target_feature(enable = "avx512f,vaes")]
fn tweaks(schedule: *const u8, first: u64, count: usize) -> Tweaks {
    match count.div_ceil(4) {
        1 => tweaks_in::<1>(schedule, first),
        2 => tweaks_in::<2>(schedule, first),
        3..=4 => tweaks_in::<4>(schedule, first),
        _ => tweaks_in::<8>(schedule, first),
    }
}

#[target_feature(enable = "avx512f,vaes")]
fn tweaks_in<const REGISTERS: usize>(schedule: *const u8, first: u64) -> Tweaks {
    let first = i64::from_ne_bytes(first.to_ne_bytes());
    // SAFETY: `schedule` is the tweak schedule of a `Schedule`, which has ROUND_KEYS keys.
    let key = |round| unsafe { round_key(schedule, round) };
    let steps = _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0);
    let mut blocks: [__m512i; REGISTERS] = array::from_fn(|register| {
        let base = first.wrapping_add(4 * register as i64);
        // The upper half of each number is zero: the tweak is 128 bits wide.
        let numbers = _mm512_add_epi64(_mm512_maskz_set1_epi64(0b0101_0101, base), steps);
        _mm512_xor_si512(numbers, key(0))
    });
    for round in 1..ROUND_KEYS - 1 {
        blocks = blocks.map(|block| _mm512_aesenc_epi128(block, key(round)));
    }
    let mut out = Tweaks([_mm_setzero_si128(); BATCH]);
    for (block, place) in blocks.iter().zip(out.0.chunks_exact_mut(4)) {
        let last = _mm512_aesenclast_epi128(*block, key(ROUND_KEYS - 1));
        // SAFETY: a chunk is four blocks, 64 bytes, and nobody else's; the instruction takes any alignment.
        unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), last) };
    }
    out
}

/// Tweak times alpha^0 to alpha^31, in the order of a unit's blocks (IEEE 1619 section 5.2).
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn powers(tweak: __m128i) -> [__m512i; WIDTH] {
    let all = _mm512_broadcast_i32x4(tweak);
    let up = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
    let down = _mm512_set_epi64(61, 61, 62, 62, 63, 63, 64, 64);
    let p0 = carry(_mm512_sllv_epi64(all, up), _mm512_srlv_epi64(all, down));
    let p1 = carry(_mm512_slli_epi64::<4>(p0), _mm512_srli_epi64::<60>(p0));
    let (p2, p3) = (times_alpha_bytes::<1, 15>(p0), times_alpha_bytes::<1, 15>(p1));
    [
        p0,
        p1,
        p2,
        p3,
        times_alpha_bytes::<2, 14>(p0),
        times_alpha_bytes::<2, 14>(p1),
        times_alpha_bytes::<2, 14>(p2),
        times_alpha_bytes::<2, 14>(p3),
    ]
}

/// The field's polynomial, x^128 + x^7 + x^2 + x + 1, without its highest term.
#[target_feature(enable = "avx512f")]
fn polynomial() -> __m512i {
    _mm512_set1_epi64(0x87)
}

/// Finishes a shift of both halves of a block by some bits: what left the low half enters the high half,
/// what left the high half is reduced into the low one.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn carry(shifted: __m512i, left: __m512i) -> __m512i {
    let reduced = _mm512_clmulepi64_epi128::<0x01>(left, polynomial());
    xor3(shifted, _mm512_bslli_epi128::<8>(left), reduced)
}

/// Times alpha^(8 `UP`): a shift by `UP` bytes; `DOWN` is 16 - `UP`.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_alpha_bytes<const UP: i32, const DOWN: i32>(block: __m512i) -> __m512i {
    let out = _mm512_bsrli_epi128::<DOWN>(block);
    let reduced = _mm512_clmulepi64_epi128::<0x00>(out, polynomial());
    _mm512_xor_si512(_mm512_bslli_epi128::<UP>(block), reduced)
}

#[target_feature(enable = "avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// 32 blocks: xor with the tweak, AES, xor with the tweak. Both xors ride on the first and last round key.
///
/// # Safety
/// 512 bytes are readable at `src` and writable at `dst`.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn blocks<const ENCRYPT: bool>(
    keys: &[__m512i; ROUND_KEYS],
    powers: &[__m512i; WIDTH],
    src: *const u8,
    dst: *mut u8,
) {
    let mut blocks: [__m512i; WIDTH] = array::from_fn(|index| {
        // SAFETY: `index` is below 8, so these 64 bytes are within the caller's 512.
        let block = unsafe { load(src.wrapping_add(64 * index)) };
        xor3(block, powers[index], keys[0])
    });
    for key in &keys[1..ROUND_KEYS - 1] {
        blocks = blocks.map(|block| {
            if ENCRYPT { _mm512_aesenc_epi128(block, *key) } else { _mm512_aesdec_epi128(block, *key) }
        });
    }
    for index in 0..WIDTH {
        let last = _mm512_xor_si512(keys[ROUND_KEYS - 1], powers[index]);
        let block = if ENCRYPT {
            _mm512_aesenclast_epi128(blocks[index], last)
        } else {
            _mm512_aesdeclast_epi128(blocks[index], last)
        };
        // SAFETY: `index` is below 8, so these 64 bytes are within the caller's 512.
        unsafe { store(dst.wrapping_add(64 * index), block) };
    }
}

/// Reads 64 bytes that somebody else may be writing. Assembly, so that the compiler assumes nothing about
/// them: neither that they stay the same nor that reading them again would give the same.
///
/// # Safety
/// 64 bytes are readable there.
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8) -> __m512i {
    let value;
    // SAFETY: the caller gives 64 readable bytes; the instruction takes any alignment.
    unsafe {
        asm!("vmovdqu64 {}, [{}]", out(zmm_reg) value, in(reg) from,
            options(nostack, preserves_flags, readonly));
    }
    value
}

/// Writes 64 bytes that somebody else may be reading or writing.
///
/// # Safety
/// 64 bytes are writable there, and nobody holds a reference to them.
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut u8, value: __m512i) {
    // SAFETY: the caller gives 64 writable bytes; the instruction takes any alignment.
    unsafe {
        asm!("vmovdqu64 [{}], {}", in(reg) to, in(zmm_reg) value, options(nostack, preserves_flags));
    }
}
