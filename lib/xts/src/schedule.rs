//! AES-256 key expansion (FIPS 197 section 5.2) with the processor's own instructions.

use seal::{LockError, Secret, VolumeKey};
use std::arch::x86_64::{
    __m128i, _mm_aesimc_si128, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128,
};

/// Round keys of one AES-256 direction.
pub(crate) const ROUND_KEYS: usize = 15;
const BYTES: usize = ROUND_KEYS * 16;

/// The three schedules that XTS needs, in locked memory.
pub(crate) struct Schedule(Secret<{ 3 * BYTES }>);

impl Schedule {
    /// # Safety
    /// The processor has AES instructions.
    #[target_feature(enable = "aes,sse2")]
    pub(crate) unsafe fn new(key: &VolumeKey) -> Result<Self, LockError> {
        let mut secret = Secret::zeroed()?;
        let at: *mut u8 = secret.expose_mut().as_mut_ptr();
        let (data, tweak) = key.expose().split_at(32);
        // SAFETY: half of a volume key is 32 bytes, and the secret has room for three times BYTES.
        unsafe { expand(data.as_ptr(), at) };
        // SAFETY: the first BYTES were just written, and the second follow them.
        unsafe { invert(at, at.wrapping_add(BYTES)) };
        // SAFETY: half of a volume key is 32 bytes, and these are the third BYTES of the secret.
        unsafe { expand(tweak.as_ptr(), at.wrapping_add(2 * BYTES)) };
        Ok(Self(secret))
    }

    /// To encrypt data.
    pub(crate) fn encrypt(&self) -> *const u8 {
        self.0.expose().as_ptr()
    }

    /// To decrypt data (the equivalent inverse cipher's).
    pub(crate) fn decrypt(&self) -> *const u8 {
        self.encrypt().wrapping_add(BYTES)
    }

    /// To encrypt tweaks.
    pub(crate) fn tweak(&self) -> *const u8 {
        self.encrypt().wrapping_add(2 * BYTES)
    }
}

/// w0, w0^w1, w0^w1^w2, w0^w1^w2^w3: what the expansion's chain of xors comes to.
#[target_feature(enable = "sse2")]
fn prefix_xor(words: __m128i) -> __m128i {
    let pairs = _mm_xor_si128(words, _mm_slli_si128(words, 4));
    _mm_xor_si128(pairs, _mm_slli_si128(pairs, 8))
}

/// Writes 15 round keys to `to`.
///
/// # Safety
/// 32 bytes are readable at `key`, and BYTES writable at `to`.
#[target_feature(enable = "aes,sse2")]
unsafe fn expand(key: *const u8, to: *mut u8) {
    // SAFETY: the first 16 of the caller's 32 bytes; the instruction takes any alignment.
    let mut even = unsafe { _mm_loadu_si128(key.cast()) };
    // SAFETY: the last 16 of them.
    let mut odd = unsafe { _mm_loadu_si128(key.wrapping_add(16).cast()) };
    let mut index = 0;
    let mut put = |value| {
        // SAFETY: the caller gives room for 15 keys, and `put` is called 15 times.
        unsafe { _mm_storeu_si128(to.wrapping_add(16 * index).cast(), value) };
        index += 1;
    };
    put(even);
    put(odd);
    macro_rules! round {
        ($constant:literal) => {
            let rotated = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(odd, $constant), 0xff);
            even = _mm_xor_si128(prefix_xor(even), rotated);
            put(even);
            if $constant != 0x40 {
                let substituted = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(even, 0), 0xaa);
                odd = _mm_xor_si128(prefix_xor(odd), substituted);
                put(odd);
            }
        };
    }
    round!(0x01);
    round!(0x02);
    round!(0x04);
    round!(0x08);
    round!(0x10);
    round!(0x20);
    round!(0x40);
}

/// The inverse cipher's keys: the same in reverse, the inner ones through InvMixColumns.
///
/// # Safety
/// BYTES are readable at `from` and writable at `to`.
#[target_feature(enable = "aes,sse2")]
unsafe fn invert(from: *const u8, to: *mut u8) {
    for round in 0..ROUND_KEYS {
        let from = from.wrapping_add(16 * (ROUND_KEYS - 1 - round));
        // SAFETY: one of the caller's 15 keys, for `round` is below that; the instruction takes any alignment.
        let mut key = unsafe { _mm_loadu_si128(from.cast()) };
        if round != 0 && round != ROUND_KEYS - 1 {
            key = _mm_aesimc_si128(key);
        }
        // SAFETY: the caller gives room for 15 keys, and `round` is below that.
        unsafe { _mm_storeu_si128(to.wrapping_add(16 * round).cast(), key) };
    }
}
