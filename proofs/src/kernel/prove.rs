//! How it is proved, and how the proofs are tried.

use super::{
    subject::{Decision, Logic, Quota, Source, Subject},
    symbolic::{Fault, Symbolic},
};
use crate::{
    report::{Failure, Proved},
    solver::{Solver, agreed, refute},
};
use decision::{Call, Charge, Domain, Native, Times, Verdict, decide};
use easy_smt::{Context, SExpr};
use proptest::{
    prelude::{Strategy, any, prop_oneof},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use std::{cell::RefCell, io, rc::Rc};

/// Random inputs with which the two readings are compared, for each subject and solver.
const INPUTS: usize = 128;
/// How far random values lie apart.
const SPREAD: u64 = 32;

/// A solver with the unknowns that stand for all inputs.
pub(crate) struct Session<S: Subject> {
    context: Rc<RefCell<Context>>,
    pub(crate) input: S::Input<Symbolic>,
    unknowns: Unknowns,
}

/// Unknowns of a solver as inputs.
struct Unknowns {
    context: Rc<RefCell<Context>>,
    made: Vec<(String, SExpr)>,
    bits: u32,
    failed: Option<io::Error>,
}

impl Unknowns {
    fn make(&mut self, name: &str, sort: SExpr, bits: u32) -> SExpr {
        let made = self.context.borrow_mut().declare_const(name, sort);
        let made = made.unwrap_or_else(|error| {
            self.failed = Some(error);
            sort
        });
        self.bits += bits;
        self.made.push((name.to_owned(), made));
        made
    }
}

impl Source<Symbolic> for Unknowns {
    fn number(&mut self, name: &'static str) -> SExpr {
        let sort = self.context.borrow().bit_vec_sort(self.context.borrow().numeral(64));
        self.make(name, sort, 64)
    }

    fn truth(&mut self, name: &'static str) -> SExpr {
        let sort = self.context.borrow().bool_sort();
        self.make(name, sort, 1)
    }
}

impl<S: Subject> Session<S> {
    pub(crate) fn start(solver: &Solver) -> Result<Self, Failure> {
        let context = Rc::new(RefCell::new(solver.start()?));
        let mut unknowns = Unknowns { context: Rc::clone(&context), made: Vec::new(), bits: 0, failed: None };
        let input = S::input(&mut unknowns);
        match unknowns.failed.take() {
            None => Ok(Self { context, input, unknowns }),
            Some(error) => Err(format!("{}: {error}", solver.name)),
        }
    }

    pub(crate) fn domain(&self, fault: Option<Fault>) -> Symbolic {
        Symbolic::new(&self.context, fault)
    }

    /// Inputs for which the claim does not hold.
    fn refute(&self, claim: SExpr) -> Result<Option<String>, Failure> {
        refute(&mut self.context.borrow_mut(), claim, &self.unknowns.made)
    }

    /// Whether some claim about `output` does not hold for all inputs.
    pub(crate) fn is_refuted(&self, output: &S::Output<Symbolic>) -> Result<bool, Failure> {
        let sound = self.domain(None);
        let claims = S::claims(&sound, &self.input, output);
        let all = claims.iter().fold(self.context.borrow().true_(), |all, (_, claim)| sound.and(all, *claim));
        Ok(self.refute(all)?.is_some())
    }

    /// The first claim that does not hold, with inputs for which it does not.
    fn refutation(&self, output: &S::Output<Symbolic>) -> Result<Option<String>, Failure> {
        for (what, claim) in S::claims(&self.domain(None), &self.input, output) {
            if let Some(inputs) = self.refute(claim)? {
                return Ok(Some(format!("\"{what}\" does not hold for {inputs}")));
            }
        }
        Ok(None)
    }

    /// Whether two outputs are the same for all inputs.
    fn same(&self, a: &S::Output<Symbolic>, b: &S::Output<Symbolic>) -> Result<bool, Failure> {
        Ok(self.refute(equal::<S, _>(&self.domain(None), a, b))?.is_none())
    }
}

fn equal<S: Subject, D: Domain>(d: &D, a: &S::Output<D>, b: &S::Output<D>) -> D::B {
    let l = Logic(d);
    let ((numbers, truths), (other_numbers, other_truths)) = (S::parts(a), S::parts(b));
    let numbers =
        numbers.into_iter().zip(other_numbers).fold(l.all([]), |all, (a, b)| d.and(all, l.equal(a, b)));
    truths.into_iter().zip(other_truths).fold(numbers, |all, (a, b)| d.and(all, l.same(a, b)))
}

/// What became of the planted faults.
#[derive(Debug, Default, PartialEq, Eq)]
struct Planted {
    refuted: usize,
    /// Faults that change nothing, such as the later of two equal times.
    harmless: usize,
}

/// Proves every claim with every solver; then does each operation of the kernel wrong in two ways, one at a time, and
/// wants each mistake refuted, or proved to change nothing.
pub(crate) fn for_all_inputs<S: Subject>(solvers: &[Solver]) -> Result<Proved, Failure> {
    let one = |solver: &Solver| {
        let session = Session::<S>::start(solver)?;
        let domain = session.domain(None);
        let output = S::run(&domain, &session.input);
        if let Some(why) = session.refutation(&output)? {
            return Err(why);
        }
        let mut planted = Planted::default();
        for (at, second) in (0..domain.operations()).flat_map(|at| [(at, false), (at, true)]) {
            let wrong = S::run(&session.domain(Some(Fault { at, second })), &session.input);
            if session.same(&wrong, &output)? {
                planted.harmless += 1;
            } else if session.is_refuted(&wrong)? {
                planted.refuted += 1;
            } else {
                return Err(format!("a fault planted in operation {at} was not found"));
            }
        }
        Ok((session.unknowns.bits, planted))
    };
    let (bits, Planted { refuted, harmless }) = agreed(solvers, one)?;
    Ok(Proved {
        space: format!("all 2^{bits} inputs"),
        found: format!("{refuted} planted faults refuted, {harmless} more change nothing"),
    })
}

/// Kernels as one writes them at first: each must be refuted.
pub(super) fn naive(solvers: &[Solver]) -> Result<Proved, Failure> {
    type Kernel = fn(&Symbolic, &Call<Symbolic>) -> Verdict<Symbolic>;
    fn instead(d: &Symbolic, call: &Call<Symbolic>, broken: SExpr) -> Verdict<Symbolic> {
        let verdict = decide(d, call);
        let used = d.choose(broken, d.add(call.charge.used, call.charge.cost), verdict.used_after);
        Verdict { granted: Logic(d).or(verdict.granted, broken), used_after: used, ..verdict }
    }
    /// Grants what the kernel grants, and what it would if this call were as `with` makes it and `holds` held.
    fn lax(d: &Symbolic, call: &Call<Symbolic>, with: Call<Symbolic>, holds: SExpr) -> Verdict<Symbolic> {
        let granted = d.and(decide(d, &with).granted, holds);
        instead(d, call, granted)
    }
    let kernels: [(&str, Kernel); 4] = [
        ("used + cost <= limit", |d, call| {
            let sum = d.add(call.charge.used, call.charge.cost);
            let free = Charge { used: d.number(0), cost: d.number(0), ..call.charge };
            lax(d, call, Call { charge: free, ..*call }, d.at_most(sum, call.charge.limit))
        }),
        ("expires <= issued + max_life", |d, call| {
            let t = call.times;
            let holds = d.at_most(t.expires, d.add(t.issued, t.max_life));
            let long = Times { max_life: d.number(u64::MAX), ..t };
            lax(d, call, Call { times: long, ..*call }, holds)
        }),
        ("now - skew < expires", |d, call| {
            let t = call.times;
            let holds = d.below(d.sub(t.now, t.skew), t.expires);
            let early = Times { now: d.number(0), floor: d.number(0), skew: d.number(u64::MAX), ..t };
            lax(d, call, Call { times: early, ..*call }, holds)
        }),
        ("break glass", |d, call| {
            let content = Call { content: d.not(call.content), ..*call };
            lax(d, call, content, call.recorded)
        }),
    ];
    let one = |solver: &Solver| {
        let session = Session::<Decision>::start(solver)?;
        for (name, kernel) in kernels {
            let verdict = kernel(&session.domain(None), &session.input);
            if !session.is_refuted(&verdict)? {
                return Err(format!("the kernel with \"{name}\" was not refuted"));
            }
        }
        Ok(())
    };
    agreed(solvers, one)?;
    let names: Vec<_> = kernels.iter().map(|(name, _)| *name).collect();
    Ok(Proved { space: "the same inputs".to_owned(), found: format!("refuted: {}", names.join(", ")) })
}

/// Given values as inputs, in any domain.
struct Values<'a, D> {
    domain: &'a D,
    values: std::slice::Iter<'a, u64>,
    drawn: Vec<(&'static str, u64)>,
}

impl<'a, D> Values<'a, D> {
    fn new(domain: &'a D, values: &'a [u64]) -> Self {
        Self { domain, values: values.iter(), drawn: Vec::new() }
    }

    /// The value of what a number is compared with for equality: by chance they would hardly ever be the same.
    fn twin(&self, name: &str) -> Option<u64> {
        let twin = match name.split_once('_') {
            Some(("authorised", word)) => format!("image_{word}"),
            Some(("verified", rest)) => rest.to_owned(),
            _ if name == "room" => "image_length".to_owned(),
            _ => return None,
        };
        self.drawn.iter().find(|(drawn, _)| *drawn == twin).map(|(_, value)| *value)
    }
}

impl<D: Domain> Source<D> for Values<'_, D> {
    fn number(&mut self, name: &'static str) -> D::N {
        let value = self.values.next().copied().unwrap_or_default();
        // Bounds are mostly above what they bound: else hardly a call would be granted.
        let bound = ["expires", "limit", "max_life", "window"].contains(&name) && value % 8 != 0;
        let value = match self.twin(name).filter(|_| value % 32 != 0) {
            Some(twin) => twin,
            None if ["master", "device"].contains(&name) => value % 3,
            None if bound => value.saturating_add(2 * SPREAD),
            None => value,
        };
        self.drawn.push((name, value));
        self.domain.number(value)
    }

    fn truth(&mut self, name: &'static str) -> D::B {
        // One in sixteen calls would touch content, or lacks what it needs.
        let odd = self.values.next().is_some_and(|value| value % 16 == 0);
        literal(self.domain, odd == (name == "content"))
    }
}

pub(crate) fn literal<D: Domain>(d: &D, truth: bool) -> D::B {
    d.at_most(d.number(u64::from(!truth)), d.number(0))
}

/// Values near each other, and in half of the cases near the ends, where off-by-one and wrapping are.
fn values() -> impl Strategy<Value = Vec<u64>> {
    let case = (any::<bool>(), any::<u64>());
    case.prop_flat_map(|(plain, base)| {
        let near = (0..SPREAD).prop_map(move |n| if plain { n } else { base.wrapping_add(n) });
        let end = (0..SPREAD / 4).prop_map(move |n| if plain { n } else { u64::MAX - n });
        proptest::collection::vec(prop_oneof![2 => 0..SPREAD, 1 => near, 1 => end], 32)
    })
}

/// Runs both readings on the same random inputs.
pub(super) fn readings(solvers: &[Solver]) -> Result<Proved, Failure> {
    let granted = compare::<Decision>(solvers, |verdict| verdict.granted)?;
    let taken = compare::<Quota>(solvers, |taken| taken.taken)?;
    Ok(Proved {
        space: format!("{INPUTS} random inputs of each with every solver"),
        found: format!("{granted} calls granted and {taken} quotas taken among them"),
    })
}

/// Compares what both readings make of the same inputs; how many of them `yes` says yes to.
pub(crate) fn compare<S: Subject>(
    solvers: &[Solver],
    yes: fn(&S::Output<Native>) -> bool,
) -> Result<usize, Failure> {
    let one = |solver: &Solver| {
        let context = Rc::new(RefCell::new(solver.start()?));
        let symbolic = Symbolic::new(&context, None);
        // The same inputs for every solver and every run.
        let mut runner = TestRunner::deterministic();
        let mut count = 0;
        for _ in 0..INPUTS {
            let drawn = values().new_tree(&mut runner).map_err(|e| e.to_string())?.current();
            let native = S::run(&Native, &S::input(&mut Values::new(&Native, &drawn)));
            let solved = S::run(&symbolic, &S::input(&mut Values::new(&symbolic, &drawn)));
            count += usize::from(yes(&native));
            let ((numbers, truths), (solved_numbers, solved_truths)) = (S::parts(&native), S::parts(&solved));
            let l = Logic(&symbolic);
            let numbers =
                numbers.into_iter().zip(solved_numbers).map(|(a, b)| l.equal(symbolic.number(a), b));
            let truths = truths.into_iter().zip(solved_truths).map(|(a, b)| l.same(literal(&symbolic, a), b));
            let claim = numbers.chain(truths).fold(l.all([]), |all, one| symbolic.and(all, one));
            if refute(&mut context.borrow_mut(), claim, &[])?.is_some() {
                return Err(format!("the readings differ for {drawn:?}"));
            }
        }
        Ok(count)
    };
    let count = agreed(solvers, one)?;
    if (INPUTS / 20..INPUTS).contains(&count) {
        Ok(count)
    } else {
        Err(format!("{count} grants compare little"))
    }
}
