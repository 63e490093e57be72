//! More than somebody is given, by going for it in small pieces or at a bad moment.

use crate::{
    Outcome,
    crew::{ALICE, Ask, Code, refused},
    play::{Act, Scenario},
    stage::Stage,
};
use host_api::Api;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How long the rule on spent quotas keeps another alarm of its kind back.
const SPENT_AGAIN: Duration = Duration::from_secs(10);
/// No quota in the policies gives more than this.
const MOST: usize = 100;

pub(crate) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("quota split over many small tokens", split, "quota.spent", "many-tokens")
            .says(&["operator/alice"]),
        Scenario::new(
            "quota asked for again after a crash of the token service",
            crash,
            "quota.spent",
            "quota-spent",
        )
        .says(&["operator/alice"])
        .waits(SPENT_AGAIN)
        .alone(),
    ]
}

fn small(stage: &Stage) -> Outcome<Result<(), Code>> {
    let ask = Ask { life: Duration::from_secs(2), ..Ask::new(Api::DrainHost, stage.crew.here()) };
    Ok(stage.crew.token(ALICE, &ask)?.map(drop))
}

/// One token after the other, each good for one call and two seconds. What was given must be what the policies say.
fn split(stage: &mut Stage) -> Outcome<Act> {
    let at = Instant::now();
    let limit = rights::Rights::embedded().map_err(|e| e.to_string())?;
    let limit = limit.quotas().quotas.iter().find(|quota| quota.operations.contains(&Api::DrainHost));
    let limit = limit.ok_or("no quota counts drains")?.member;
    for _ in 0..MOST {
        if let Err(code) = small(stage)? {
            let given = stage.crew.sensitive_tokens();
            let code = if given == limit { code } else { format!("{given} tokens instead of {limit}") };
            return Ok(Act { codes: vec![code], at });
        }
    }
    Err(format!("no quota: {MOST} tokens were given"))
}

fn crash(stage: &mut Stage) -> Outcome<Act> {
    stage.rack.again("tokens", Signal::KILL, |unit| unit)?;
    Act::once(|| small(stage).map(refused))
}
