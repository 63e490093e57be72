//! What is claimed of the chip's decisions: what the specification says, not how the kernel does it.

use crate::{
    kernel::{
        prove::{Session, literal},
        subject::{Logic, Source, Subject},
        symbolic::Symbolic,
    },
    report::{Failure, Proved},
    solver::{Solver, agreed},
};
use chip_core::{
    Refusal,
    kernel::{Access, Hash, Release, Update, Verdict, access, device, master, release, update},
};
use decision::Domain;

/// A number that a decision gave.
pub(super) struct Number<D: Domain>(pub(super) D::N);

fn hash<D: Domain>(source: &mut impl Source<D>, names: [&'static str; 4]) -> Hash<D> {
    names.map(|name| source.number(name))
}

fn same<D: Domain>(l: &Logic<'_, D>, a: &Hash<D>, b: &Hash<D>) -> D::B {
    l.all([0, 1, 2, 3].map(|n: usize| l.equal(a[n], b[n])))
}

/// [`access`].
pub(super) struct Bus;

impl Subject for Bus {
    type Input<D: Domain> = Access<D>;
    type Output<D: Domain> = Number<D>;

    fn input<D: Domain>(s: &mut impl Source<D>) -> Access<D> {
        Access {
            master: s.number("master"),
            device: s.number("device"),
            writes: s.truth("writes"),
            enabled: s.truth("enabled"),
            runs: s.truth("runs"),
            from: s.number("from"),
            length: s.number("length"),
            window: s.number("window"),
        }
    }

    fn run<D: Domain>(d: &D, input: &Access<D>) -> Number<D> {
        Number(access(d, input))
    }

    fn claims<D: Domain>(d: &D, a: &Access<D>, verdict: &Number<D>) -> Vec<(&'static str, D::B)> {
        let l = Logic(d);
        let is = |v: Verdict| l.equal(verdict.0, d.number(v.number()));
        let by = |number| l.equal(a.master, d.number(number));
        let to = |number| l.equal(a.device, d.number(number));
        let window = l.sum_at_most(a.from, a.length, a.window);
        let own_variables = l.all([by(master::CPU), to(device::FLASH), a.runs, window]);
        let flash = l
            .or(l.all([by(master::CPU), to(device::FLASH)]), l.all([by(master::BMC), to(device::BMC_FLASH)]));
        let shared =
            l.all([l.or(by(master::CPU), by(master::BMC)), l.or(to(device::IDENTITY), to(device::RESET))]);
        let none_other = l.or(
            l.or(is(Verdict::Ignore), is(Verdict::Refuse)),
            l.or(is(Verdict::Read), is(Verdict::Overlay)),
        );
        vec![
            ("a verdict is one of four, and none writes a flash", none_other),
            (
                "only a running processor's variables change, after write enable, and nothing beside them",
                l.same(is(Verdict::Overlay), l.all([a.writes, a.enabled, own_variables])),
            ),
            (
                "what changes nothing because of the flash itself is no attempt",
                l.same(is(Verdict::Ignore), l.all([a.writes, d.not(a.enabled)])),
            ),
            (
                "each reads its own flash, both what says which board this is",
                l.same(is(Verdict::Read), l.all([d.not(a.writes), l.or(flash, shared)])),
            ),
            (
                "every other write is refused, and so recorded",
                l.implies(l.all([a.writes, a.enabled, d.not(own_variables)]), is(Verdict::Refuse)),
            ),
            (
                "nobody writes while held",
                l.implies(l.all([a.writes, a.enabled, d.not(a.runs)]), is(Verdict::Refuse)),
            ),
        ]
    }

    fn parts<D: Domain>(output: &Number<D>) -> (Vec<D::N>, Vec<D::B>) {
        (vec![output.0], vec![])
    }
}

/// [`update`].
pub(super) struct Writing;

impl Subject for Writing {
    type Input<D: Domain> = Update<D>;
    type Output<D: Domain> = Number<D>;

    fn input<D: Domain>(s: &mut impl Source<D>) -> Update<D> {
        Update {
            held: s.truth("held"),
            length: s.number("image_length"),
            room: s.number("room"),
            image: hash(s, ["image_0", "image_1", "image_2", "image_3"]),
            authorised: hash(s, ["authorised_0", "authorised_1", "authorised_2", "authorised_3"]),
        }
    }

    fn run<D: Domain>(d: &D, input: &Update<D>) -> Number<D> {
        Number(update(d, input))
    }

    fn claims<D: Domain>(d: &D, u: &Update<D>, refusal: &Number<D>) -> Vec<(&'static str, D::B)> {
        let l = Logic(d);
        let exact = same(&l, &u.image, &u.authorised);
        let fits = l.equal(u.length, u.room);
        let is = |r: Refusal| l.equal(refusal.0, d.number(r.number()));
        let written = l.equal(refusal.0, d.number(0));
        vec![
            (
                "written if held, fitting and authorised, and only then",
                l.same(written, l.all([u.held, fits, exact])),
            ),
            ("not held is told first", l.same(is(Refusal::NotHeld), d.not(u.held))),
            ("then the length", l.same(is(Refusal::Length), l.all([u.held, d.not(fits)]))),
            ("then the hash", l.same(is(Refusal::Hash), l.all([u.held, fits, d.not(exact)]))),
        ]
    }

    fn parts<D: Domain>(output: &Number<D>) -> (Vec<D::N>, Vec<D::B>) {
        (vec![output.0], vec![])
    }
}

/// [`release`].
pub(super) struct Letting;

impl Subject for Letting {
    type Input<D: Domain> = Release<D>;
    type Output<D: Domain> = Number<D>;

    fn input<D: Domain>(s: &mut impl Source<D>) -> Release<D> {
        Release {
            cpu: s.truth("cpu"),
            board: s.truth("board"),
            present: [
                hash(s, ["code_0", "code_1", "code_2", "code_3"]),
                hash(s, ["bmc_0", "bmc_1", "bmc_2", "bmc_3"]),
            ],
            verified: [
                hash(s, ["verified_code_0", "verified_code_1", "verified_code_2", "verified_code_3"]),
                hash(s, ["verified_bmc_0", "verified_bmc_1", "verified_bmc_2", "verified_bmc_3"]),
            ],
        }
    }

    fn run<D: Domain>(d: &D, input: &Release<D>) -> Number<D> {
        Number(release(d, input))
    }

    fn claims<D: Domain>(d: &D, r: &Release<D>, refusal: &Number<D>) -> Vec<(&'static str, D::B)> {
        let l = Logic(d);
        let [code, bmc] = [0, 1].map(|n: usize| same(&l, &r.present[n], &r.verified[n]));
        let verified = l.all([code, bmc]);
        let in_order = l.implies(r.cpu, r.board);
        let is = |r: Refusal| l.equal(refusal.0, d.number(r.number()));
        let released = l.equal(refusal.0, d.number(0));
        vec![
            ("nothing goes with unverified code of the processors", l.implies(released, code)),
            ("nothing goes with unverified firmware of the BMC", l.implies(released, bmc)),
            ("the processors wait for their board", l.implies(released, in_order)),
            ("what is verified and in order goes", l.same(released, l.all([verified, in_order]))),
            ("unverified is told first", l.same(is(Refusal::Unverified), d.not(verified))),
            ("then the order", l.same(is(Refusal::Order), l.all([verified, d.not(in_order)]))),
        ]
    }

    fn parts<D: Domain>(output: &Number<D>) -> (Vec<D::N>, Vec<D::B>) {
        (vec![output.0], vec![])
    }
}

/// A decision as somebody might write it.
type Decision<S> = fn(&Symbolic, &<S as Subject>::Input<Symbolic>) -> Number<Symbolic>;

const BUS: [(&str, Decision<Bus>); 3] = [
    ("from + length <= window", |d, a| {
        let sum = d.add(a.from, a.length);
        let inside = d.at_most(sum, a.window);
        // With no bytes at 0 the kernel's own bound always holds.
        let free = Access { from: d.number(0), length: d.number(0), ..*a };
        Number(d.choose(inside, access(d, &free), access(d, a)))
    }),
    ("the first byte is inside", |d, a| Number(access(d, &Access { length: d.number(1), ..*a }))),
    ("whoever speaks is the processor", |d, a| {
        Number(access(d, &Access { master: d.number(master::CPU), ..*a }))
    }),
];
const WRITING: [(&str, Decision<Writing>); 2] = [
    ("the first 192 bits are the same", |d, u| {
        let [first, second, third, _] = u.image;
        Number(update(d, &Update { image: [first, second, third, u.authorised[3]], ..*u }))
    }),
    ("a shorter image fits", |d, u| {
        let length = d.choose(d.below(u.length, u.room), u.room, u.length);
        Number(update(d, &Update { length, ..*u }))
    }),
];
const LETTING: [(&str, Decision<Letting>); 2] = [
    ("the processors' code is verified", |d, r| {
        Number(release(d, &Release { verified: [r.verified[0], r.present[1]], ..*r }))
    }),
    ("any order", |d, r| Number(release(d, &Release { board: literal(d, true), ..*r }))),
];

/// Decisions as one writes them at first: each must be refuted.
pub(super) fn naive(solvers: &[Solver]) -> Result<Proved, Failure> {
    let one = |solver: &Solver| {
        let (bus, writing) = (refuted::<Bus>(solver, &BUS)?, refuted::<Writing>(solver, &WRITING)?);
        Ok([bus, writing, refuted::<Letting>(solver, &LETTING)?].concat())
    };
    let names = agreed(solvers, one)?;
    Ok(Proved { space: "the same inputs".to_owned(), found: format!("refuted: {}", names.join(", ")) })
}

fn refuted<S: Subject<Output<Symbolic> = Number<Symbolic>>>(
    solver: &Solver,
    decisions: &[(&'static str, Decision<S>)],
) -> Result<Vec<&'static str>, Failure> {
    let session = Session::<S>::start(solver)?;
    let one = |(name, decision): &(&'static str, Decision<S>)| {
        let wrong = decision(&session.domain(None), &session.input);
        let found = session.is_refuted(&wrong)?;
        found.then_some(*name).ok_or_else(|| format!("\"{name}\" was not refuted"))
    };
    decisions.iter().map(one).collect()
}
