//! What a decision is written over, so that one text of it is read twice: programs run it over [`Native`], the proofs
//! over the bit-vectors of a solver, where one run speaks of all inputs.
//!
//! It decides nothing by itself. No heap, no dependencies: the security chip's core stands on it.
#![no_std]
#![forbid(unsafe_code)]

use core::{fmt::Debug, hash::Hash};

/// What a kernel calculates with: unsigned 64-bit numbers whose sums wrap, and truths. Nobody can branch on a truth
/// of an unknown domain, so one run of a kernel speaks of all inputs.
pub trait Domain {
    /// A number, 0 to 2^64 - 1.
    type N: Copy + Debug + Eq + Hash;
    /// A truth.
    type B: Copy + Debug + Eq + Hash;

    /// This number.
    fn number(&self, value: u64) -> Self::N;
    /// `a + b` modulo 2^64.
    fn add(&self, a: Self::N, b: Self::N) -> Self::N;
    /// `a - b` modulo 2^64.
    fn sub(&self, a: Self::N, b: Self::N) -> Self::N;
    /// `a < b`.
    fn below(&self, a: Self::N, b: Self::N) -> Self::B;
    /// Both.
    fn and(&self, a: Self::B, b: Self::B) -> Self::B;
    /// The contrary.
    fn not(&self, a: Self::B) -> Self::B;
    /// `yes` if `condition` holds, else `no`.
    fn choose(&self, condition: Self::B, yes: Self::N, no: Self::N) -> Self::N;

    /// `a <= b`.
    fn at_most(&self, a: Self::N, b: Self::N) -> Self::B {
        self.not(self.below(b, a))
    }

    /// `a == b`.
    fn equal(&self, a: Self::N, b: Self::N) -> Self::B {
        self.and(self.at_most(a, b), self.at_most(b, a))
    }

    /// The later of two.
    fn max(&self, a: Self::N, b: Self::N) -> Self::N {
        self.choose(self.below(a, b), b, a)
    }
}

/// The reading that services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Native;

impl Domain for Native {
    type N = u64;
    type B = bool;

    fn number(&self, value: u64) -> u64 {
        value
    }

    fn add(&self, a: u64, b: u64) -> u64 {
        a.wrapping_add(b)
    }

    fn sub(&self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b)
    }

    fn below(&self, a: u64, b: u64) -> bool {
        a < b
    }

    fn and(&self, a: bool, b: bool) -> bool {
        a & b
    }

    fn not(&self, a: bool) -> bool {
        !a
    }

    fn choose(&self, condition: bool, yes: u64, no: u64) -> u64 {
        if condition { yes } else { no }
    }
}
