//! One loop, the same inside the guest and outside: integer work whose every step needs the one
//! before, so that it takes as long however the compiler unrolls it.

/// Runs the loop `rounds` times.
#[inline(never)]
pub(crate) fn compute(rounds: u64) -> u64 {
    let mut value = core::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..rounds {
        value ^= value >> 29;
        value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x1331_11eb);
    }
    core::hint::black_box(value)
}

/// Rounds of one measurement: short enough that some are not disturbed on a busy machine.
pub(crate) const ROUNDS: u64 = 5_000_000;
