//! The rights configuration over all requests: who can ever be allowed what, and what a change to it changes.

pub mod compare;
mod policies;
mod prove;
mod space;

use crate::{report::Proof, solver::Solver};

/// Every proof about the rights of this release.
pub fn proofs(solvers: &[Solver]) -> Vec<Proof<'_>> {
    vec![
        Proof::new(
            "nobody_touches_customer_content",
            "no principal is allowed anything on customer content; with the floor under them, no policies at all allow it to others than tenants",
            || prove::content(solvers),
        ),
        Proof::new(
            "the_floor_holds_under_any_policy",
            "volumes and instances are for the control plane only, hosts and logs for no tenant, whatever the policies say",
            || prove::floor_holds(solvers),
        ),
        Proof::new(
            "every_group_has_its_table_and_no_more",
            "who is allowed an operation is in a group whose table has it; each right of a table is one",
            || prove::tables(solvers),
        ),
        Proof::new(
            "no_policy_breaks_the_glass",
            "even with every forbid gone, permits are for members of groups, for their table, on their fleet",
            || prove::glass(solvers),
        ),
        Proof::new(
            "the_tenets_hold",
            "no request is allowed that proofs/tenets.cedar does not allow",
            || prove::tenets(solvers),
        ),
        Proof::new("no_policy_ends_in_an_error", "so none is skipped for one", || prove::errors(solvers)),
        Proof::new(
            "a_change_is_known_as_wider_or_narrower",
            "equal, narrower, wider and different policy sets are told apart, with a request that shows it",
            || prove::changes(solvers),
        ),
    ]
}
