//! Plays the scenarios, waits for their alarms, and tells what came.

use crate::{Outcome, crew::Code, inbox::Arrived, scenarios, stage::Stage};
use serde::Serialize;
use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// An alarm must have arrived so long after the abuse, beside what its rule waits for.
const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// An abuse, and what must come of it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Plays it.
    pub(crate) act: fn(&mut Stage) -> Outcome<Act>,
    /// Each try must be refused with this code, or recorded with it where nothing can be refused.
    pub(crate) code: &'static str,
    /// The rule that must raise an alarm.
    pub(crate) rule: &'static str,
    /// Words that the alarm's JSON form holds, so that it is this alarm and no other of the rule.
    pub(crate) says: &'static [&'static str],
    /// What the rule itself waits for before it is sure.
    pub(crate) waits: Duration,
    /// It ends processes: everything before it must have come to its end.
    pub(crate) alone: bool,
}

impl Scenario {
    pub(crate) const fn new(
        name: &'static str,
        act: fn(&mut Stage) -> Outcome<Act>,
        code: &'static str,
        rule: &'static str,
    ) -> Self {
        Self { name, act, code, rule, says: &[], waits: Duration::ZERO, alone: false }
    }

    pub(crate) const fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    pub(crate) const fn waits(self, waits: Duration) -> Self {
        Self { waits, ..self }
    }

    pub(crate) const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

/// What happened.
pub(crate) struct Act {
    /// The code of each try.
    pub(crate) codes: Vec<Code>,
    /// When the last try began.
    pub(crate) at: Instant,
}

impl Act {
    /// Tries once.
    pub(crate) fn once(attempt: impl FnOnce() -> Outcome<Code>) -> Outcome<Self> {
        let at = Instant::now();
        Ok(Self { codes: vec![attempt()?], at })
    }

    /// Tries as often as the number says.
    pub(crate) fn times(number: usize, mut attempt: impl FnMut() -> Outcome<Code>) -> Outcome<Self> {
        let mut act = Self { codes: Vec::new(), at: Instant::now() };
        for _ in 0..number {
            act.at = Instant::now();
            act.codes.push(attempt()?);
        }
        Ok(act)
    }
}

/// What came of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Result {
    scenario: &'static str,
    /// The code with which it was refused.
    code: String,
    /// The rule that raised an alarm.
    rule: &'static str,
    /// How long after the abuse the alarm arrived, in milliseconds; none if it did not.
    alarm_after_ms: Option<u128>,
    /// How much of that the rule itself waits, at most.
    rule_waits_ms: u128,
    ok: bool,
    why: Option<String>,
}

/// What came of a run.
#[derive(Debug, Serialize)]
struct Report {
    results: Vec<Result>,
    /// Of the alarms whose rules wait for nothing, in milliseconds.
    alarm_delay_median_ms: u128,
    alarm_delay_max_ms: u128,
    seconds: u64,
}

struct Waiting<'a> {
    scenario: &'a Scenario,
    since: Instant,
    act: Outcome<Act>,
}

/// Plays every scenario whose name contains `name`; what came of it, as text or as JSON, and whether all held.
pub fn run(programs: &Path, name: Option<&str>, keep: bool, json: bool) -> Outcome<(String, bool)> {
    let chosen: Vec<Scenario> = scenarios::all()
        .into_iter()
        .filter(|scenario| name.is_none_or(|name| scenario.name.contains(name)))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = scenarios::all().iter().map(|scenario| scenario.name).collect();
        return Err(format!("no such scenario; there are:\n  {}", names.join("\n  ")));
    }
    let start = Instant::now();
    let folder = tempfile::Builder::new().prefix("azote-rt-").tempdir().map_err(|e| e.to_string())?;
    let mut stage = Stage::start(programs, folder.path())?;
    let results = play(&mut stage, &chosen, json);
    if keep {
        eprintln!("still up in {}", folder.keep().join("s").display());
    } else {
        stage.rack.down()?;
    }
    let report = Report::new(results, start.elapsed());
    Ok((if json { report.json() } else { report.summary() }, report.held()))
}

fn play(stage: &mut Stage, chosen: &[Scenario], quiet: bool) -> Vec<Result> {
    let mut waiting = Vec::new();
    let mut results = Vec::new();
    for scenario in chosen {
        while scenario.alone && !waiting.is_empty() {
            sleep(POLL);
            settle(stage, &mut waiting, &mut results, quiet);
        }
        let since = Instant::now();
        let act = (scenario.act)(stage);
        waiting.push(Waiting { scenario, since, act });
        settle(stage, &mut waiting, &mut results, quiet);
    }
    while !waiting.is_empty() {
        sleep(POLL);
        settle(stage, &mut waiting, &mut results, quiet);
    }
    results
}

/// Moves what has its alarm, or will not get it any more, to the results.
fn settle(stage: &Stage, waiting: &mut Vec<Waiting<'_>>, results: &mut Vec<Result>, quiet: bool) {
    waiting.retain(|one| {
        let done = match &one.act {
            Err(why) => Some(one.result("", None, Some(why.clone()))),
            Ok(act) => one.judge(act, &stage.inbox.arrived()),
        };
        let open = done.is_none();
        if let Some(result) = done {
            if !quiet {
                println!("{}", result.line());
            }
            results.push(result);
        }
        open
    });
}

impl Waiting<'_> {
    fn judge(&self, act: &Act, arrived: &[Arrived]) -> Option<Result> {
        let code = act.codes.last().map_or("", String::as_str);
        let wrong = act.codes.iter().find(|code| *code != self.scenario.code);
        if let Some(wrong) = wrong.cloned().or_else(|| act.codes.is_empty().then(|| "nothing".to_owned())) {
            let why = format!("want {}, got {wrong}", self.scenario.code);
            return Some(self.result(&wrong, None, Some(why)));
        }
        let alarm = arrived.iter().find(|one| one.at >= self.since && self.is_it(one));
        let limit = LIMIT + self.scenario.waits;
        match alarm.map(|alarm| alarm.at.saturating_duration_since(act.at)) {
            Some(after) => {
                let why = (after > limit)
                    .then(|| format!("the alarm came late, after {:.1} s", after.as_secs_f64()));
                Some(self.result(code, Some(after), why))
            }
            // Twice the limit: late is told from never.
            None if act.at.elapsed() > limit * 2 => {
                let others: Vec<_> = arrived
                    .iter()
                    .filter(|one| one.at >= self.since)
                    .map(|one| one.alarm.rule.as_str())
                    .collect();
                Some(self.result(code, None, Some(format!("no alarm; others since: {}", others.join(" ")))))
            }
            None => None,
        }
    }

    fn is_it(&self, one: &Arrived) -> bool {
        let text = serde_json::to_string(&one.alarm).unwrap_or_default();
        one.alarm.rule == self.scenario.rule && self.scenario.says.iter().all(|word| text.contains(word))
    }

    fn result(&self, code: &str, after: Option<Duration>, why: Option<String>) -> Result {
        Result {
            scenario: self.scenario.name,
            code: code.to_owned(),
            rule: self.scenario.rule,
            alarm_after_ms: after.map(|after| after.as_millis()),
            rule_waits_ms: self.scenario.waits.as_millis(),
            ok: why.is_none(),
            why,
        }
    }
}

impl Result {
    fn line(&self) -> String {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        let after = self.alarm_after_ms.map_or("-".to_owned(), seconds);
        let why = self.why.as_ref().map(|why| format!("  {why}")).unwrap_or_default();
        format!("{mark} {:<58} {:<24} {:<20} {after:>7}{why}", self.scenario, self.code, self.rule)
    }
}

/// `1.23 s`.
fn seconds(ms: u128) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

impl Report {
    fn new(results: Vec<Result>, took: Duration) -> Self {
        let prompt = results.iter().filter(|result| result.rule_waits_ms == 0);
        let mut delays: Vec<u128> = prompt.filter_map(|result| result.alarm_after_ms).collect();
        delays.sort_unstable();
        Self {
            alarm_delay_median_ms: delays.get(delays.len() / 2).copied().unwrap_or_default(),
            alarm_delay_max_ms: delays.last().copied().unwrap_or_default(),
            seconds: took.as_secs(),
            results,
        }
    }

    /// Whether every scenario was refused and raised its alarm.
    fn held(&self) -> bool {
        self.results.iter().all(|result| result.ok)
    }

    /// For programs.
    fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// For people.
    fn summary(&self) -> String {
        let bad = self.results.iter().filter(|result| !result.ok).count();
        format!(
            "{} scenarios, {bad} failed; alarm after {} in the median, {} at most; {} s in all",
            self.results.len(),
            seconds(self.alarm_delay_median_ms),
            seconds(self.alarm_delay_max_ms),
            self.seconds
        )
    }
}
