//! The decision kernel, read with bit-vectors: what holds of it for all inputs.

pub(crate) mod prove;
pub(crate) mod subject;
pub(crate) mod symbolic;

use crate::{report::Proof, solver::Solver};
use subject::{Decision, Quota};

/// Every proof about the kernel.
pub fn proofs(solvers: &[Solver]) -> Vec<Proof<'_>> {
    vec![
        Proof::new(
            "the_kernel_grants_nothing_that_it_should_not",
            "content, audience, possession, scope, record, time with skew, life, quota without wrapping; refusals cost nothing",
            || prove::for_all_inputs::<Decision>(solvers),
        ),
        Proof::new(
            "a_window_never_gives_more_than_its_limit",
            "no overrun, no wrapping, no new window before the old one has ended, no refund",
            || prove::for_all_inputs::<Quota>(solvers),
        ),
        Proof::new(
            "the_naive_kernels_are_refuted",
            "kernels whose sums wrap, as one writes them at first",
            || prove::naive(solvers),
        ),
        Proof::new(
            "the_two_readings_of_the_kernel_agree",
            "u64 and bool, as services run it, and bit-vectors, as it is proved",
            || prove::readings(solvers),
        ),
    ]
}
