//! The security chip: its decisions for all inputs, and the chip that ships in every order of events.

mod flash;
mod model;
mod subject;
mod world;

use crate::{
    kernel::prove::{compare, for_all_inputs},
    report::{Failure, Proof, Proved},
    solver::Solver,
};
use chip_core::kernel::Verdict;
use subject::{Bus, Letting, Writing};

/// Every proof about the chip.
pub fn proofs(solvers: &[Solver]) -> Vec<Proof<'_>> {
    vec![
        Proof::new(
            "no_access_changes_a_flash",
            "what masters write goes to the processors' own variables, no byte further, and is dropped; each reads its own; the rest is refused and recorded",
            || for_all_inputs::<Bus>(solvers),
        ),
        Proof::new(
            "only_the_authorised_image_is_written",
            "held, of the right length, and the same in all 256 bits",
            || for_all_inputs::<Writing>(solvers),
        ),
        Proof::new(
            "no_line_goes_without_all_firmware_verified",
            "both digests, in all bits; the processors after their board",
            || for_all_inputs::<Letting>(solvers),
        ),
        Proof::new(
            "the_naive_chips_are_refuted",
            "decisions whose sums wrap, that compare a part, or forget one of two",
            || subject::naive(solvers),
        ),
        Proof::new(
            "the_two_readings_of_the_chip_agree",
            "u64 and bool, as the chip runs it, and bit-vectors, as it is proved",
            || readings(solvers),
        ),
        Proof::new(
            "no_order_of_events_beats_the_chip",
            "no write reaches flash without authorisation of those exact bytes; reset is never released before verification; nothing is lost by a controller's death",
            model::explore,
        ),
    ]
}

fn readings(solvers: &[Solver]) -> Result<Proved, Failure> {
    let overlaid = compare::<Bus>(solvers, |verdict| verdict.0 == Verdict::Overlay.number())?;
    let written = compare::<Writing>(solvers, |refusal| refusal.0 == 0)?;
    let released = compare::<Letting>(solvers, |refusal| refusal.0 == 0)?;
    Ok(Proved {
        space: "random inputs of each with every solver".to_owned(),
        found: format!("{overlaid} writes to variables, {written} updates, {released} releases among them"),
    })
}
