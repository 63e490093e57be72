//! What is proved about, and what is claimed of it. Claims are what the specification says, not how the kernel does it.

use decision::{
    Call, Charge, Domain, Reason, Times, Verdict, decide,
    quota::{Frame, charged, turn},
};

/// Where inputs come from: unknowns of a solver, or values.
pub(crate) trait Source<D: Domain> {
    fn number(&mut self, name: &'static str) -> D::N;
    fn truth(&mut self, name: &'static str) -> D::B;
}

/// Something written over a domain, with claims about it.
pub(crate) trait Subject {
    type Input<D: Domain>;
    type Output<D: Domain>;
    fn input<D: Domain>(source: &mut impl Source<D>) -> Self::Input<D>;
    fn run<D: Domain>(d: &D, input: &Self::Input<D>) -> Self::Output<D>;
    fn claims<D: Domain>(
        d: &D,
        input: &Self::Input<D>,
        output: &Self::Output<D>,
    ) -> Vec<(&'static str, D::B)>;
    /// The output as numbers and truths.
    fn parts<D: Domain>(output: &Self::Output<D>) -> (Vec<D::N>, Vec<D::B>);
}

/// What claims are written with, beside the domain's own operations.
pub(crate) struct Logic<'a, D>(pub(crate) &'a D);

impl<D: Domain> Logic<'_, D> {
    pub(crate) fn all<const N: usize>(&self, list: [D::B; N]) -> D::B {
        let zero = self.0.number(0);
        let yes = self.0.at_most(zero, zero);
        list.into_iter().fold(yes, |all, one| self.0.and(all, one))
    }

    pub(crate) fn or(&self, a: D::B, b: D::B) -> D::B {
        self.0.not(self.0.and(self.0.not(a), self.0.not(b)))
    }

    pub(crate) fn implies(&self, a: D::B, b: D::B) -> D::B {
        self.or(self.0.not(a), b)
    }

    pub(crate) fn same(&self, a: D::B, b: D::B) -> D::B {
        self.0.and(self.implies(a, b), self.implies(b, a))
    }

    pub(crate) fn equal(&self, a: D::N, b: D::N) -> D::B {
        self.0.and(self.0.at_most(a, b), self.0.at_most(b, a))
    }

    /// `a + b <= c`, if nothing could wrap.
    pub(crate) fn sum_at_most(&self, a: D::N, b: D::N, c: D::N) -> D::B {
        let sum = self.0.add(a, b);
        self.0.and(self.0.at_most(a, sum), self.0.at_most(sum, c))
    }

    /// `c <= a + b`, if nothing could wrap.
    pub(crate) fn sum_reaches(&self, a: D::N, b: D::N, c: D::N) -> D::B {
        let sum = self.0.add(a, b);
        self.or(self.0.below(sum, a), self.0.at_most(c, sum))
    }
}

/// [`decide`].
pub(crate) struct Decision;

impl Subject for Decision {
    type Input<D: Domain> = Call<D>;
    type Output<D: Domain> = Verdict<D>;

    fn input<D: Domain>(s: &mut impl Source<D>) -> Call<D> {
        Call {
            times: Times {
                now: s.number("now"),
                floor: s.number("floor"),
                skew: s.number("skew"),
                issued: s.number("issued"),
                not_before: s.number("not_before"),
                expires: s.number("expires"),
                max_life: s.number("max_life"),
            },
            audience: s.truth("audience"),
            holder: s.truth("holder"),
            fresh: s.truth("fresh"),
            operation: s.truth("operation"),
            resource: s.truth("resource"),
            content: s.truth("content"),
            recorded: s.truth("recorded"),
            charge: Charge { used: s.number("used"), cost: s.number("cost"), limit: s.number("limit") },
        }
    }

    fn run<D: Domain>(d: &D, input: &Call<D>) -> Verdict<D> {
        decide(d, input)
    }

    fn claims<D: Domain>(d: &D, call: &Call<D>, verdict: &Verdict<D>) -> Vec<(&'static str, D::B)> {
        let l = Logic(d);
        let if_granted = |claim| l.implies(verdict.granted, claim);
        let Charge { used, cost, limit } = call.charge;
        let conditions = conditions(d, call);
        let mut earlier = l.all([]);
        let mut told = d.not(verdict.granted);
        // The reason is that of the first condition that does not hold.
        for (reason, holds) in &conditions {
            let is_it = l.equal(verdict.reason, d.number(reason.number()));
            told = d.and(l.same(is_it, d.and(earlier, d.not(*holds))), told);
            earlier = d.and(earlier, *holds);
        }
        let mut claims: Vec<_> =
            conditions.iter().map(|(reason, holds)| (reason.code(), if_granted(*holds))).collect();
        claims.extend([
            ("granted if all holds", l.same(verdict.granted, earlier)),
            ("a reason if not granted, and the first", l.implies(d.not(verdict.granted), told)),
            ("no reason if granted", if_granted(l.equal(verdict.reason, d.number(0)))),
            ("a grant counts", if_granted(l.equal(d.sub(verdict.used_after, used), cost))),
            ("a grant wraps nothing", if_granted(d.at_most(used, verdict.used_after))),
            ("the quota is never passed", if_granted(d.at_most(verdict.used_after, limit))),
            ("a refusal costs nothing", l.implies(d.not(verdict.granted), l.equal(verdict.used_after, used))),
        ]);
        claims
    }

    fn parts<D: Domain>(output: &Verdict<D>) -> (Vec<D::N>, Vec<D::B>) {
        (vec![output.reason, output.used_after], vec![output.granted])
    }
}

/// What must hold for a grant, in the order in which it is looked for; with sums where the kernel has differences.
fn conditions<D: Domain>(d: &D, call: &Call<D>) -> [(Reason, D::B); 11] {
    let l = Logic(d);
    let Times { now, floor, skew, issued, not_before, expires, max_life } = call.times;
    let life = l.all([
        d.below(issued, expires),
        d.below(not_before, expires),
        l.sum_reaches(issued, max_life, expires),
        l.sum_reaches(not_before, max_life, expires),
    ]);
    let begun = l.or(l.sum_reaches(now, skew, not_before), l.sum_reaches(floor, skew, not_before));
    [
        (Reason::Life, life),
        (Reason::Audience, call.audience),
        (Reason::NotYetValid, begun),
        (Reason::Expired, d.and(d.below(now, expires), d.below(floor, expires))),
        (Reason::Holder, call.holder),
        (Reason::Fresh, call.fresh),
        (Reason::Operation, call.operation),
        (Reason::Resource, call.resource),
        (Reason::Content, d.not(call.content)),
        (Reason::Quota, l.sum_at_most(call.charge.used, call.charge.cost, call.charge.limit)),
        (Reason::Recorded, call.recorded),
    ]
}

/// [`turn`], then [`charged`], as `quota::Window::take` does them.
pub(crate) struct Quota;

/// What `quota::Window::take` knows.
pub(crate) struct Take<D: Domain> {
    now: D::N,
    before: Frame<D>,
    cost: D::N,
    limit: D::N,
}

/// What it makes of it.
pub(crate) struct Taken<D: Domain> {
    /// Whether the cost was taken.
    pub(crate) taken: D::B,
    after: Frame<D>,
}

impl Subject for Quota {
    type Input<D: Domain> = Take<D>;
    type Output<D: Domain> = Taken<D>;

    fn input<D: Domain>(s: &mut impl Source<D>) -> Take<D> {
        Take {
            now: s.number("now"),
            before: Frame { start: s.number("start"), length: s.number("length"), used: s.number("used") },
            cost: s.number("cost"),
            limit: s.number("limit"),
        }
    }

    fn run<D: Domain>(d: &D, input: &Take<D>) -> Taken<D> {
        let turned = turn(d, input.now, &input.before);
        let charge = Charge { used: turned.used, cost: input.cost, limit: input.limit };
        let (taken, used) = charged(d, &charge);
        Taken { taken, after: Frame { used, ..turned } }
    }

    fn claims<D: Domain>(d: &D, input: &Take<D>, output: &Taken<D>) -> Vec<(&'static str, D::B)> {
        let l = Logic(d);
        let (before, after) = (&input.before, &output.after);
        let ended = l.all([
            d.below(d.number(0), before.length),
            d.at_most(before.start, input.now),
            l.sum_at_most(before.start, before.length, input.now),
        ]);
        let none = d.choose(ended, d.number(0), before.used);
        let room = l.sum_at_most(none, input.cost, input.limit);
        let same = l.equal(after.start, before.start);
        vec![
            ("the limit holds", l.implies(output.taken, d.at_most(after.used, input.limit))),
            ("what is taken counts", l.implies(output.taken, l.equal(d.sub(after.used, none), input.cost))),
            ("no wrapping", l.implies(output.taken, d.at_most(none, after.used))),
            ("a refusal takes nothing", l.implies(d.not(output.taken), l.equal(after.used, none))),
            ("taken if there is room, and only then", l.same(output.taken, room)),
            ("a new window begins now", l.implies(ended, l.equal(after.start, input.now))),
            ("no new window before the end", l.or(ended, same)),
            ("the start never goes back", d.at_most(before.start, after.start)),
            ("the length stays", l.equal(before.length, after.length)),
        ]
    }

    fn parts<D: Domain>(output: &Taken<D>) -> (Vec<D::N>, Vec<D::B>) {
        (vec![output.after.start, output.after.length, output.after.used], vec![output.taken])
    }
}
