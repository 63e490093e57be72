//! The system-call filter.

use crate::{
    SandboxError,
    policy::{Comparison, Failure, Operator, Policy, Width},
};
use rustix::io::Errno;
use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Calls by which something leaves the process for another address. One that the policy does not permit traps
/// instead of killing: the handler of [`crate::Violation`] then tells the parent what it was.
const OUTBOUND: &[&str] = &["bind", "connect", "sendmmsg", "sendmsg", "sendto", "socket"];
/// How many filters at the end become stricter when a policy is narrowed.
pub(crate) const NARROWED: usize = 2;
/// SIGSYS, whose handler must stay.
const SIGSYS: u64 = 31;

/// Compiles the policy's calls. The kernel takes the strictest of all filters' answers, and killing is
/// stricter than trapping: the last filter kills at every call that is not permitted, [`OUTBOUND`] ones aside;
/// the one before traps at those. What is before these two ([`NARROWED`]) does not become stricter when a policy is
/// narrowed. seccompiler's JSON front end knows the numbers of the names.
pub(crate) fn compile(policy: &Policy) -> Result<Vec<BpfProgram>, SandboxError> {
    let wrong = |reason: String| SandboxError::Policy(reason);
    let (mut free, mut conditional, mut failing) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut rules, mut failures) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for call in &policy.syscalls {
        for name in &call.names {
            let args = call.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            let named = match (call.fails, args.is_empty()) {
                (None, true) => &mut free,
                (None, false) => &mut conditional,
                (Some(_), _) => &mut failing,
            };
            named.insert(name);
            let rule = if args.is_empty() {
                json!({ "syscall": name })
            } else {
                json!({ "syscall": name, "args": args })
            };
            if let Some(failure) = call.fails {
                failures.entry(number(failure)).or_default().push(rule.clone());
            }
            rules.push(rule);
        }
    }
    let both = free.intersection(&conditional).chain(free.intersection(&failing));
    if let Some(name) = both.chain(conditional.intersection(&failing)).next() {
        return Err(wrong(format!("{name} is named in ways that exclude each other")));
    }
    let (allow, kill) = (json!("allow"), json!("kill_process"));
    let failing =
        failures.into_iter().map(|(errno, rules)| filter(&allow, &json!({ "errno": errno }), &rules));
    let mut filters: Vec<_> = failing.collect();
    let handler = json!({ "syscall": "rt_sigaction", "args": [
        { "index": 0, "type": "dword", "op": "eq", "val": SIGSYS }
    ] });
    if !policy.starts {
        filters.push(filter(&allow, &kill, &[handler]));
    }
    let (outbound, others): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| OUTBOUND.iter().any(|name| rule["syscall"] == *name));
    let free = |names: BTreeSet<&str>| names.into_iter().map(|name| json!({ "syscall": name })).collect();
    // The filter that kills comes last, so the one before must let it be installed.
    let named = others.iter().filter_map(|rule| rule["syscall"].as_str()).chain(["prctl", "seccomp"]);
    let trapping: Vec<_> = [outbound, free(named.collect())].concat();
    let killing: Vec<_> = [others, free(OUTBOUND.iter().copied().collect())].concat();
    filters.push(filter(&json!("trap"), &allow, &trapping));
    filters.push(filter(&kill, &allow, &killing));
    programs(filters)
}

fn filter(mismatch: &Value, matching: &Value, rules: &[Value]) -> Value {
    json!({ "mismatch_action": mismatch, "match_action": matching, "filter": rules })
}

/// All at once: each time the front end makes its table of names anew.
fn programs(filters: Vec<Value>) -> Result<Vec<BpfProgram>, SandboxError> {
    let wrong = |reason: String| SandboxError::Policy(reason);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| wrong(error.to_string()))?;
    let names: Vec<_> = (0..filters.len()).map(|number| number.to_string()).collect();
    let named: Map<_, _> = names.iter().cloned().zip(filters).collect();
    let mut programs = seccompiler::compile_from_json(Value::from(named).to_string().as_bytes(), arch)
        .map_err(|error| wrong(error.to_string()))?;
    let programs =
        names.iter().map(|name| programs.remove(name).ok_or_else(|| wrong("no filter".to_owned())));
    programs.collect()
}

fn number(failure: Failure) -> i32 {
    let errno = match failure {
        Failure::Eacces => Errno::ACCESS,
        Failure::Enoent => Errno::NOENT,
        Failure::Enosys => Errno::NOSYS,
        Failure::Zero => return 0,
    };
    errno.raw_os_error()
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
