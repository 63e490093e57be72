//! One loop, the same inside the guest and outside: integer work whose every step needs the one before.

/// Runs the loop `rounds` times.
#[inline(never)]
pub(crate) fn compute(rounds: u64) -> u64 {
    let mut value = core::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
    for round in 0..rounds {
        value ^= value >> 29;
        value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(round);
    }
    core::hint::black_box(value)
}

/// Rounds of one measurement.
pub(crate) const ROUNDS: u64 = 50_000_000;
