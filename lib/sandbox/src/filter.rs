//! The system-call filter.

use crate::{
    SandboxError,
    policy::{Comparison, Operator, Policy, Width},
};
use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NAME: &str = "process";

/// Compiles the policy's calls. seccompiler's JSON front end knows the numbers of the names.
pub(crate) fn compile(policy: &Policy) -> Result<BpfProgram, SandboxError> {
    let wrong = |reason: String| SandboxError::Policy(reason);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| wrong(error.to_string()))?;
    let (mut free, mut conditional) = (BTreeSet::new(), BTreeSet::new());
    let mut rules = Vec::new();
    for call in &policy.syscalls {
        for name in &call.names {
            if call.args.is_empty() {
                free.insert(name);
                rules.push(json!({ "syscall": name }));
            } else {
                conditional.insert(name);
                let args = call.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
                rules.push(json!({ "syscall": name, "args": args }));
            }
        }
    }
    if let Some(name) = free.intersection(&conditional).next() {
        return Err(wrong(format!("{name} is named both with and without conditions")));
    }
    let filter =
        json!({ NAME: { "mismatch_action": "kill_process", "match_action": "allow", "filter": rules } });
    let mut programs = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch)
        .map_err(|error| wrong(error.to_string()))?;
    programs.remove(NAME).ok_or_else(|| wrong("no filter".to_owned()))
}

fn condition(comparison: &Comparison) -> Result<Value, SandboxError> {
    let op = match (comparison.op, comparison.mask) {
        (Operator::MaskedEq, Some(mask)) => json!({ "masked_eq": mask }),
        (Operator::MaskedEq, None) | (_, Some(_)) => {
            return Err(SandboxError::Policy("masked-eq, and nothing else, has a mask".to_owned()));
        }
        (plain, None) => json!(plain),
    };
    let width = match comparison.width {
        Width::W32 => "dword",
        Width::W64 => "qword",
    };
    Ok(json!({ "index": comparison.index, "type": width, "op": op, "val": comparison.value }))
}
