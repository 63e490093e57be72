//! The decision, without a branch.

use crate::{Domain, Native, Reason};

/// The clock of who decides, and the times that a token names. Unix seconds.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Times<D: Domain> {
    /// What the clock says.
    pub now: D::N,
    /// The latest time that the clock has said before. It counts if the clock went back.
    pub floor: D::N,
    /// How far the signer's clock may be ahead, in seconds. Forgiven before `not_before`, never after `expires`.
    pub skew: D::N,
    /// When the token was signed.
    pub issued: D::N,
    /// The first second of its validity.
    pub not_before: D::N,
    /// The first second in which it is no longer valid.
    pub expires: D::N,
    /// The longest life of a token, in seconds.
    pub max_life: D::N,
}

/// What a call costs, and of what.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Charge<D: Domain> {
    /// Used up so far.
    pub used: D::N,
    /// What this call would use.
    pub cost: D::N,
    /// The most that may be used.
    pub limit: D::N,
}

/// One call on a host, as facts.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Call<D: Domain> {
    /// When.
    pub times: Times<D>,
    /// The token is for this host.
    pub audience: D::B,
    /// The caller has the key that the token names, and signed this very call with it.
    pub holder: D::B,
    /// That signature is of just now and was not seen before.
    pub fresh: D::B,
    /// The token names the operation.
    pub operation: D::B,
    /// The token names every resource of the call.
    pub resource: D::B,
    /// The call would touch customer content.
    pub content: D::B,
    /// The intent to act is durable in the log.
    pub recorded: D::B,
    /// What it uses up.
    pub charge: Charge<D>,
}

/// What was decided.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Verdict<D: Domain> {
    /// Whether the call may be done.
    pub granted: D::B,
    /// The number of the [`Reason`] why not, or 0.
    pub reason: D::N,
    /// What is used up after this decision.
    pub used_after: D::N,
}

/// Copies of what a domain that itself cannot be copied made: `derive` would ask that of it.
macro_rules! copied {
    ($($name:ident),*) => {$(
        impl<D: Domain> Clone for $name<D> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<D: Domain> Copy for $name<D> {}
    )*};
}

copied!(Times, Charge, Call, Verdict);

impl Verdict<Native> {
    /// What is used up after the call, or why the call is refused.
    pub fn result(&self) -> Result<u64, Reason> {
        match Reason::from_number(self.reason) {
            None if self.granted => Ok(self.used_after),
            reason => Err(reason.unwrap_or(Reason::Life)),
        }
    }
}

/// Turns the number of a reason into a result.
pub fn refusal(reason: u64) -> Result<(), Reason> {
    Reason::from_number(reason).map_or(Ok(()), Err)
}

/// The time that counts: the clock's, unless it went back.
pub fn clock<D: Domain>(d: &D, times: &Times<D>) -> D::N {
    d.max(times.now, times.floor)
}

/// Whether the token is in order, for this host and in its time: the number of a reason, or 0.
pub fn standing<D: Domain>(d: &D, audience: D::B, times: &Times<D>) -> D::N {
    let now = clock(d, times);
    // A time before `expires`, and not too long before: where it is asked for, the difference does not wrap.
    let near =
        |from| d.and(d.below(from, times.expires), d.at_most(d.sub(times.expires, from), times.max_life));
    let life = d.and(near(times.issued), near(times.not_before));
    // The same for `not_before - now`, where it is asked for.
    let early = d.below(times.skew, d.sub(times.not_before, now));
    let early = d.and(d.below(now, times.not_before), early);
    first(
        d,
        &[
            (life, Reason::Life),
            (audience, Reason::Audience),
            (d.not(early), Reason::NotYetValid),
            (d.below(now, times.expires), Reason::Expired),
        ],
    )
}

/// Whether the caller is the token's holder, here and now: the number of a reason, or 0.
pub fn possession<D: Domain>(d: &D, holder: D::B, fresh: D::B) -> D::N {
    first(d, &[(holder, Reason::Holder), (fresh, Reason::Fresh)])
}

/// Whether the token names what is asked for: the number of a reason, or 0.
pub fn scope<D: Domain>(d: &D, operation: D::B, resource: D::B) -> D::N {
    first(d, &[(operation, Reason::Operation), (resource, Reason::Resource)])
}

/// Whether the cost still fits: never more than the limit is used up, and no sum wraps.
pub fn fits<D: Domain>(d: &D, charge: &Charge<D>) -> D::B {
    let room = d.sub(charge.limit, charge.cost);
    d.and(d.at_most(charge.cost, charge.limit), d.at_most(charge.used, room))
}

/// Decides one call.
pub fn decide<D: Domain>(d: &D, call: &Call<D>) -> Verdict<D> {
    let none = d.number(0);
    let is_none = |reason: D::N| d.at_most(reason, none);
    let parts = [
        standing(d, call.audience, &call.times),
        possession(d, call.holder, call.fresh),
        scope(d, call.operation, call.resource),
        first(
            d,
            &[
                (d.not(call.content), Reason::Content),
                (fits(d, &call.charge), Reason::Quota),
                (call.recorded, Reason::Recorded),
            ],
        ),
    ];
    let reason = parts.into_iter().rev().fold(none, |later, part| d.choose(is_none(part), later, part));
    let granted = is_none(reason);
    let charge = &call.charge;
    Verdict { granted, reason, used_after: d.choose(granted, d.add(charge.used, charge.cost), charge.used) }
}

/// The first condition that does not hold, as the number of its reason; 0 if all hold.
fn first<D: Domain>(d: &D, conditions: &[(D::B, Reason)]) -> D::N {
    conditions
        .iter()
        .rev()
        .fold(d.number(0), |later, (holds, reason)| d.choose(*holds, later, d.number(reason.number())))
}
