//! Median time of a decision with 200 policies, sliced by operation beside unsliced, in one run.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use ids::{HostId, Identity};
use operations::{Caller, Operation, Resource};
use rights::{Ask, Attestation, Environment, HostFacts, Rights, Sources, schema};
use std::{
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

const POLICIES: usize = 200;
const ROUNDS: usize = 5000;

fn main() {
    let sources = sources();
    let rights = Rights::parse(&sources).unwrap();
    let configured = rights.policies().num_of_policies();
    assert_eq!(configured, POLICIES);

    let audience = HostId::from_random(7);
    let host = HostFacts {
        fleet: "f0".parse().unwrap(),
        environment: Environment::Production,
        attestation: Attestation::Passed,
        drained: false,
    };
    let subject: Identity = "azote:operator/p0".parse().unwrap();
    let resources = [Resource::Host(audience.clone())];
    let ask = Ask {
        subject: &subject,
        operations: &[Operation::PowerCycleHost],
        resources: &resources,
        audience: &audience,
        host: &host,
        now: 1_800_000_000,
        ticket: Some("WORK-1"),
    };
    assert!(rights.decide(&ask).is_ok());
    assert_eq!(rights.decide(&ask), rights.decide_unsliced(&ask));
    // In turns, so that whatever else the machine does falls on both.
    let (mut sliced, mut unsliced) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        sliced.push(time(|| rights.decide(&ask).is_ok()));
        unsliced.push(time(|| rights.decide_unsliced(&ask).is_ok()));
    }
    println!("policies {configured} rounds {ROUNDS}");
    println!("sliced {:.1} us median, {:.1} us p99", at(&mut sliced, 50), at(&mut sliced, 99));
    println!("unsliced {:.1} us median, {:.1} us p99", at(&mut unsliced, 50), at(&mut unsliced, 99));
}

fn time(decide: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    black_box(decide());
    start.elapsed()
}

fn at(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    times[times.len() * percent / 100].as_secs_f64() * 1e6
}

/// Groups of operators with one policy for each of the operators' operations, in equal parts, each in a fleet
/// of its own, each with a condition.
fn sources() -> Sources {
    let operations: Vec<_> =
        Operation::ALL.iter().filter(|o| o.callers().contains(&Caller::Operator)).collect();
    let groups = POLICIES / operations.len();
    let (mut text, mut policies) = (String::new(), String::new());
    let mut quotas =
        "[token]\nshortest_seconds = 1\ndefault_seconds = 3600\nlongest_seconds = 3600\nuses = 100\n[host]\nsensitive = 10\nwindow_seconds = 3600\n".to_owned();
    let list = operations.iter().map(|o| format!("{:?}", o.name())).collect::<Vec<_>>().join(", ");
    for n in 0..groups {
        writeln!(text, "[[fleet]]\nname = \"f{n}\"\nenvironment = \"production\"\nwhy = \"-\"").unwrap();
        writeln!(
            text,
            "[[group]]\nname = \"g{n}\"\ncaller = \"operator\"\noperations = [{list}]\nmembers = [\"azote:operator/p{n}\"]\nwhy = \"-\""
        )
        .unwrap();
        let changing = operations.iter().filter(|o| o.sensitive()).map(|o| format!("{:?}", o.name()));
        let changing = changing.collect::<Vec<_>>().join(", ");
        writeln!(
            quotas,
            "[[quota]]\nname = \"q{n}\"\ngroup = \"g{n}\"\noperations = [{changing}]\nwindow_seconds = 3600\nmember = 5\ntogether = 10\nfleet = 10"
        )
        .unwrap();
        for operation in &operations {
            let id = format!("p{n}-{}", operation.name().to_lowercase());
            writeln!(
                policies,
                "@id(\"{id}\")\n@why(\"-\")\npermit (principal in Group::\"g{n}\", action == Action::\"{operation}\", resource in Fleet::\"f{n}\")\nwhen {{ context has ticket && context.attestation == Attestation::\"passed\" }};"
            )
            .unwrap();
        }
    }
    Sources { groups: text, quotas, policies, schema: schema() }
}
