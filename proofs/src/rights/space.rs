//! All requests that a schema has room for, and questions about them to a solver.

use crate::{
    report::Failure,
    solver::{Solver, agreed},
};
use cedar_policy::{Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, solver::LocalSolver};
use tokio::{process::Command, runtime::Runtime};

/// A request that shows something. Two solvers may show it with different ones.
#[derive(Debug, Clone)]
pub(crate) struct Shown(pub(crate) Box<Env>);

impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Shown {
    /// The request on one line.
    pub(crate) fn text(&self) -> String {
        self.0.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A schema with the kinds of requests under it: each is one type of principal, one action, one type of resource, and
/// stands for all entities, hierarchies and contexts of these types.
pub(crate) struct Space {
    pub(crate) schema: Schema,
    pub(crate) kinds: Vec<RequestEnv>,
}

impl Space {
    pub(crate) fn new(schema: Schema) -> Self {
        Self { kinds: schema.request_envs().collect(), schema }
    }

    /// Every operation for every type of principal and resource.
    pub(crate) fn wide() -> Result<Self, Failure> {
        let (schema, _) = Schema::from_cedarschema_str(&rights::wide_schema()).map_err(|e| e.to_string())?;
        Ok(Self::new(schema))
    }

    /// The part of it where `keep` says so.
    pub(crate) fn part(&self, keep: impl Fn(&Kind) -> bool) -> Self {
        let kinds = self.kinds.iter().filter(|env| keep(&Kind::of(env))).cloned().collect();
        Self { schema: self.schema.clone(), kinds }
    }

    /// A set, compiled for each kind of request.
    pub(crate) fn compile(&self, set: &PolicySet) -> Result<Vec<CompiledPolicySet>, Failure> {
        let compile = |env| CompiledPolicySet::compile(set, env, &self.schema).map_err(|e| said(&e));
        self.kinds.iter().map(compile).collect()
    }

    /// One policy, compiled for each kind of request.
    pub(crate) fn compile_one(&self, policy: &Policy) -> Result<Vec<CompiledPolicy>, Failure> {
        let compile = |env| CompiledPolicy::compile(policy, env, &self.schema).map_err(|e| said(&e));
        self.kinds.iter().map(compile).collect()
    }
}

/// The types of a kind of request.
pub(crate) struct Kind {
    pub(crate) principal: String,
    pub(crate) action: String,
    pub(crate) resource: String,
}

impl Kind {
    pub(crate) fn of(env: &RequestEnv) -> Self {
        Self {
            principal: env.principal().to_string(),
            action: env.action().id().unescaped().to_owned(),
            resource: env.resource().to_string(),
        }
    }
}

/// An error with what lies behind it.
pub(crate) fn said(error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}

/// One solver at work.
pub(crate) struct Session {
    runtime: Runtime,
    compiler: CedarSymCompiler<LocalSolver>,
}

impl Session {
    fn start(solver: &Solver) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let mut command = Command::new(&solver.program);
        command.args(Solver::arguments()).kill_on_drop(true);
        let entered = runtime.enter();
        let process = LocalSolver::from_command(&mut command).map_err(|e| said(&e))?;
        let compiler = CedarSymCompiler::new(process).map_err(|e| said(&e))?;
        drop(entered);
        Ok(Self { runtime, compiler })
    }

    /// A request that the set allows.
    pub(crate) fn allowed(&mut self, set: &CompiledPolicySet) -> Result<Option<Shown>, Failure> {
        let asked = self.compiler.check_always_denies_with_counterexample_opt(set);
        shown(self.runtime.block_on(asked))
    }

    /// A request that `a` allows and `b` does not.
    pub(crate) fn beyond(
        &mut self,
        a: &CompiledPolicySet,
        b: &CompiledPolicySet,
    ) -> Result<Option<Shown>, Failure> {
        let asked = self.compiler.check_implies_with_counterexample_opt(a, b);
        shown(self.runtime.block_on(asked))
    }

    /// A request for which the policy ends in an error.
    pub(crate) fn errs(&mut self, policy: &CompiledPolicy) -> Result<Option<Shown>, Failure> {
        let asked = self.compiler.check_never_errors_with_counterexample_opt(policy);
        shown(self.runtime.block_on(asked))
    }
}

fn shown(answer: cedar_policy_symcc::err::Result<Option<Env>>) -> Result<Option<Shown>, Failure> {
    answer.map(|found| found.map(|env| Shown(Box::new(env)))).map_err(|e| said(&e))
}

/// Asks every solver; they must agree on what there is to show.
pub(crate) fn ask<T: PartialEq + Send>(
    solvers: &[Solver],
    question: impl Fn(&mut Session) -> Result<T, Failure> + Sync,
) -> Result<T, Failure> {
    agreed(solvers, |solver| question(&mut Session::start(solver)?))
}

/// The first request that a set allows anywhere in a space.
pub(crate) fn allowed(solvers: &[Solver], space: &Space, set: &PolicySet) -> Result<Option<Shown>, Failure> {
    let compiled = space.compile(set)?;
    ask(solvers, |session| first(compiled.iter().map(|set| session.allowed(set))))
}

/// The first request in a space that `a` allows and `b` does not.
pub(crate) fn beyond(
    solvers: &[Solver],
    space: &Space,
    a: &PolicySet,
    b: &PolicySet,
) -> Result<Option<Shown>, Failure> {
    let (a, b) = (space.compile(a)?, space.compile(b)?);
    ask(solvers, |session| first(a.iter().zip(&b).map(|(a, b)| session.beyond(a, b))))
}

/// The first that is shown.
pub(crate) fn first(
    found: impl Iterator<Item = Result<Option<Shown>, Failure>>,
) -> Result<Option<Shown>, Failure> {
    found.map(Result::transpose).find_map(|shown| shown).transpose()
}
