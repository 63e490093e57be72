//! Two releases of a solver that must agree.

use crate::report::Failure;
use easy_smt::{Context, ContextBuilder, Response, SExpr};
use std::path::PathBuf;

/// Milliseconds for one question.
const LIMIT: u32 = 60_000;

/// A program that reads SMT-LIB on its standard input, as cvc5 does.
#[derive(Debug, Clone)]
pub struct Solver {
    /// What it is called in reports.
    pub name: String,
    /// Where it is.
    pub program: PathBuf,
}

impl Solver {
    /// What it is started with.
    pub fn arguments() -> Vec<String> {
        let words = ["--quiet", "--lang=smt2", "--incremental"].map(str::to_owned);
        words.into_iter().chain([format!("--tlimit-per={LIMIT}")]).collect()
    }

    /// Starts it for questions about bit-vectors.
    pub fn start(&self) -> Result<Context, Failure> {
        let start = || {
            let mut context =
                ContextBuilder::new().solver(&self.program).solver_args(Self::arguments()).build()?;
            // The kernel compares and adds: as whole numbers that is found out in milliseconds, bit by bit in minutes.
            let sum = context.atom("sum");
            context.set_option(":solve-bv-as-int", sum)?;
            context.set_logic("QF_BV")?;
            Ok(context)
        };
        start().map_err(|e: std::io::Error| format!("{}: {e}", self.name))
    }
}

/// Asks every solver, side by side; they must say the same.
pub fn agreed<T: PartialEq + Send>(
    solvers: &[Solver],
    ask: impl Fn(&Solver) -> Result<T, Failure> + Sync,
) -> Result<T, Failure> {
    let named = |solver: &Solver| ask(solver).map_err(|why| format!("{}: {why}", solver.name));
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = solvers.iter().map(|solver| scope.spawn(|| named(solver))).collect();
        let done = asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a proof panicked".to_owned())));
        done.collect::<Result<Vec<_>, _>>()
    });
    let mut answers = answers?.into_iter();
    let first = answers.next().ok_or("there is no solver")?;
    if answers.all(|other| other == first) { Ok(first) } else { Err("the solvers do not agree".to_owned()) }
}

/// Whether `claim` holds for all values of `inputs`: `None`, or values for which it does not, one `name = value` each.
pub fn refute(
    context: &mut Context,
    claim: SExpr,
    inputs: &[(String, SExpr)],
) -> Result<Option<String>, Failure> {
    let mut ask = || {
        context.push()?;
        context.assert(context.not(claim))?;
        let answer = match context.check()? {
            Response::Unsat => Ok(None),
            Response::Unknown => Err("the solver does not know".to_owned()),
            Response::Sat => {
                let values = context.get_value(inputs.iter().map(|(_, input)| *input).collect())?;
                let value =
                    |at: usize| values.get(at).map(|(_, value)| plain(&context.display(*value).to_string()));
                let list = inputs
                    .iter()
                    .enumerate()
                    .filter_map(|(at, (name, _))| Some(format!("{name} = {}", value(at)?)));
                Ok(Some(list.collect::<Vec<_>>().join(", ")))
            }
        };
        context.pop()?;
        Ok(answer)
    };
    ask().map_err(|e: std::io::Error| format!("the solver failed: {e}"))?
}

/// `#b…` and `#x…` as a decimal number.
fn plain(value: &str) -> String {
    let number = value.strip_prefix("#b").map(|bits| u64::from_str_radix(bits, 2));
    let number = number.or_else(|| value.strip_prefix("#x").map(|digits| u64::from_str_radix(digits, 16)));
    number.and_then(Result::ok).map_or_else(|| value.to_owned(), |number| number.to_string())
}
