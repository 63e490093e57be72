//! The engine: entries in, alarms out. It does no I/O; time is what it is told.

use crate::{
    Alarm, Observation, Rules, Source,
    baseline::Baseline,
    rules::{By, Clock, FirstUse, Rule, Seen, Unusual, Watch},
    table::{Group, Table, word},
};
use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// Operations of one entry that are looked at; a token allows no more.
const MAX_OPERATIONS: usize = 16;

/// How often an alarm that groups without a place of their own share is raised, in milliseconds: who crowds the monitor
/// must not keep an alarm about somebody else back.
const OTHERS_AGAIN: u64 = 5000;

/// How many parts of the table of alarms there are for rules to take one of. A rule of which an attacker chooses what its
/// alarms are about can then neither crowd the others out nor fill the queues of where alarms go.
const SHARES: usize = 64;
/// The least share.
const SHARE: usize = 16;

/// Adds an entry's index to those that an alarm will name.
pub(crate) fn push(entries: &mut VecDeque<u64>, entry: u64) {
    if entries.len() >= Alarm::MAX_ENTRIES {
        entries.pop_front();
    }
    entries.push_back(entry);
}

/// Evaluates the rules over entries of the audit log as they arrive.
#[derive(Debug)]
pub struct Monitor {
    rules: Arc<Rules>,
    now: u64,
    serial: u64,
    hash: RandomState,
    windows: Table<VecDeque<(u64, u64, u64)>>,
    baselines: Table<Baseline>,
    uses: Table<Use>,
    clocks: Table<u64>,
    raised: Table<Raised>,
}

/// When a group was first and last seen.
#[derive(Debug)]
struct Use {
    since: u64,
    last: u64,
}

/// An alarm that was raised, and what came since.
#[derive(Debug, Default)]
struct Raised {
    at: Option<u64>,
    held: u64,
    code: Option<String>,
    entries: VecDeque<u64>,
    /// Who it was about last, where the group does not say.
    latest: Option<Group>,
}

/// A rule has something to say.
struct Firing {
    group: Group,
    count: u64,
    code: Option<String>,
    entries: VecDeque<u64>,
}

impl Monitor {
    /// A monitor that has seen nothing yet.
    pub fn new(rules: Rules) -> Self {
        let groups = rules.limits.groups;
        Self {
            now: 0,
            serial: 0,
            hash: RandomState::new(),
            windows: Table::new(groups),
            baselines: Table::new(groups),
            uses: Table::new(groups),
            clocks: Table::new(groups),
            raised: Table::shared(groups, (groups / SHARES).max(SHARE)),
            rules: Arc::new(rules),
        }
    }

    /// Looks at one entry; gives the alarms that it makes.
    pub fn observe(&mut self, seen: &Observation) -> Vec<Alarm> {
        self.now = self.now.max(seen.time);
        let rules = Arc::clone(&self.rules);
        let mut firings = Vec::new();
        for (index, rule) in rules.rules.iter().enumerate().filter(|(_, rule)| rule.common.filter.takes(seen))
        {
            for group in groups(index, rule, seen) {
                firings.extend(self.apply(rule, group, seen));
            }
        }
        self.raise_all(firings)
    }

    /// Looks at an entry that was judged before a restart, oldest first: what it teaches is learned again, and
    /// alarms that were raised then are not raised again at once.
    pub fn recall(&mut self, seen: &Observation) {
        drop(self.observe(seen));
    }

    /// Time passes: raises what is due by time alone. Call it about once a second, `now` in Unix milliseconds.
    pub fn tick(&mut self, now: u64) -> Vec<Alarm> {
        self.now = self.now.max(now);
        self.raise_again()
    }

    fn apply(&mut self, rule: &Rule, group: Group, seen: &Observation) -> Option<Firing> {
        let fired = match &rule.watch {
            Watch::Seen(watch) => return self.seen(watch, group, seen),
            Watch::Unusual(watch) => return self.unusual(watch, group, seen),
            Watch::FirstUse(watch) => self.first_use(watch, &group, seen),
            Watch::Quota(watch) => seen.quota.as_ref().is_some_and(|quota| {
                u128::from(quota.used) * 100 >= u128::from(quota.limit) * u128::from(watch.percent)
            }),
            Watch::Clock(watch) => self.clock(watch, group.rule, seen),
            Watch::Crowded(_) => false,
        };
        fired.then(|| Firing::one(group, seen))
    }

    fn seen(&mut self, watch: &Seen, group: Group, seen: &Observation) -> Option<Firing> {
        if watch.count == 1 {
            return Some(Firing::one(group, seen));
        }
        let (now, span) = (self.now, watch.within_seconds * 1000);
        let value = watch.distinct.map_or(0, |by| self.hash.hash_one(value(by, seen)));
        let rules = Arc::clone(&self.rules);
        let idle = |group: &Group, window: &VecDeque<(u64, u64, u64)>| {
            let span = rules.rules.get(group.rule).map_or(0, |rule| match &rule.watch {
                Watch::Seen(seen) => seen.within_seconds * 1000,
                _ => 0,
            });
            window.back().is_none_or(|(at, _, _)| at + span < now)
        };
        let window = self.windows.at(&group, now, idle, VecDeque::new).1;
        while window.front().is_some_and(|(at, _, _)| at + span < now) {
            window.pop_front();
        }
        if watch.distinct.is_some() {
            // The same again only renews its moment.
            window.retain(|(_, _, known)| *known != value);
        }
        window.push_back((now, seen.entry, value));
        if window.len() < watch.count {
            return None;
        }
        let mut entries = VecDeque::new();
        window.drain(..).for_each(|(_, entry, _)| push(&mut entries, entry));
        Some(Firing { group, count: watch.count as u64, code: seen.code.clone(), entries })
    }

    fn unusual(&mut self, watch: &Unusual, group: Group, seen: &Observation) -> Option<Firing> {
        let now = self.now;
        let (_, baseline) =
            self.baselines.at(&group, now, |_, known| known.idle(now, watch), || Baseline::new(now, watch));
        baseline.count(now, seen.entry, watch).then(|| Firing {
            group,
            count: baseline.counted(),
            code: seen.code.clone(),
            entries: baseline.entries.clone(),
        })
    }

    fn first_use(&mut self, watch: &FirstUse, group: &Group, seen: &Observation) -> bool {
        let Some(subject) = &seen.subject else { return false };
        let now = self.now;
        let gone = |known: &Use| known.last + watch.forget_seconds * 1000 < now;
        let anything = Group { rule: group.rule, subject: Some(subject.clone()), ..Group::default() };
        let mut known_since = |group: &Group| {
            let (_, known) =
                self.uses.at(group, now, |_, known| gone(known), || Use { since: now, last: now });
            if gone(known) {
                known.since = now;
            }
            known.last = now;
            known.since
        };
        let (subject, pair) = (known_since(&anything), known_since(group));
        pair == now && subject + watch.settle_seconds * 1000 <= now
    }

    fn clock(&mut self, watch: &Clock, rule: usize, seen: &Observation) -> bool {
        let Some(said) = seen.said else { return false };
        let group = source_group(rule, &seen.source);
        let (_, latest) = self.clocks.at(&group, self.now, |_, _| false, || said);
        let back = said.saturating_add(watch.back_seconds * 1000) < *latest;
        let ahead = said > self.now.saturating_add(watch.ahead_seconds * 1000);
        // After a jump forward that was told of, the time that comes back is told of, too, and then taken as it is.
        *latest = if back { said } else { said.max(*latest) };
        back || ahead
    }

    fn raise_all(&mut self, firings: Vec<Firing>) -> Vec<Alarm> {
        let mut alarms: Vec<Alarm> = firings.into_iter().filter_map(|firing| self.raise(firing)).collect();
        let crowded = self.windows.take_crowded()
            | self.baselines.take_crowded()
            | self.uses.take_crowded()
            | self.clocks.take_crowded()
            | self.raised.take_crowded();
        if crowded {
            let rule = self.rules.rules.iter().position(|rule| matches!(rule.watch, Watch::Crowded(_)));
            let group = rule.map(|rule| Group { rule, ..Group::default() });
            let firing = |group| Firing { group, count: 0, code: None, entries: VecDeque::new() };
            alarms.extend(group.map(firing).and_then(|firing| self.raise(firing)));
        }
        alarms
    }

    /// Raises an alarm, unless the same was raised not long ago: then it is kept for later.
    fn raise(&mut self, firing: Firing) -> Option<Alarm> {
        let rules = Arc::clone(&self.rules);
        let (now, rule) = (self.now, rules.rules.get(firing.group.rule)?);
        // What has nothing held back is not needed once its time is over.
        let idle = |group: &Group, raised: &Raised| {
            let after = rules.rules.get(group.rule).map_or(0, |rule| again_after(rule, group));
            raised.held == 0 && raised.at.is_none_or(|at| at + after <= now)
        };
        let (group, raised) = self.raised.at(&firing.group, now, idle, Raised::default);
        let again = raised.at.is_some();
        raised.held += firing.count;
        raised.code = firing.code;
        firing.entries.iter().for_each(|entry| push(&mut raised.entries, *entry));
        raised.latest = group.others.then_some(firing.group);
        if raised.at.is_some_and(|at| now < at + again_after(rule, &group)) {
            // Nothing that counts: at least that it happened.
            raised.held = raised.held.max(1);
            return None;
        }
        let taken = Raised { at: Some(now), ..Raised::default() };
        let told = std::mem::replace(raised, taken);
        Some(self.alarm(rule, &group, told, again))
    }

    /// What was kept back and is due.
    fn raise_again(&mut self) -> Vec<Alarm> {
        let rules = Arc::clone(&self.rules);
        let now = self.now;
        let mut due = Vec::new();
        self.raised.retain(|group, raised| {
            let Some(rule) = rules.rules.get(group.rule) else { return false };
            if raised.at.is_some_and(|at| now < at + again_after(rule, group)) {
                return true;
            }
            if raised.held == 0 {
                return false;
            }
            due.push((
                rule,
                group.clone(),
                std::mem::replace(raised, Raised { at: Some(now), ..Raised::default() }),
            ));
            true
        });
        due.into_iter().map(|(rule, group, told)| self.alarm(rule, &group, told, true)).collect()
    }

    fn alarm(&mut self, rule: &Rule, group: &Group, told: Raised, again: bool) -> Alarm {
        self.serial += 1;
        let group = told.latest.as_ref().unwrap_or(group);
        let code = group.code.clone().or(told.code);
        let text = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
        let mut summary = rule.common.summary.clone();
        for (place, value) in [
            ("{subject}", text(group.subject.as_ref().map(ToString::to_string), "somebody")),
            ("{host}", text(group.host.as_ref().map(ToString::to_string), "the control plane")),
            ("{operation}", text(group.operation.clone(), "an operation")),
            ("{code}", text(code.clone(), "no code")),
            ("{source}", text(group.source.clone(), "a source")),
            ("{scope}", text(group.scope.clone(), "a quota")),
            ("{count}", told.held.to_string()),
        ] {
            summary = summary.replace(place, &value);
        }
        let common = &rule.common;
        Alarm {
            id: format!("{}-{}-{}", common.id, self.now, self.serial),
            rule: common.id.clone(),
            severity: common.severity,
            time: self.now,
            subject: group.subject.clone(),
            host: group.host.clone(),
            operation: group.operation.clone(),
            code,
            summary,
            runbook: common.runbook.clone(),
            link: format!("docs/runbook.md#{}", common.id),
            count: told.held,
            again,
            entries: told.entries.into(),
        }
    }
}

fn again_after(rule: &Rule, group: &Group) -> u64 {
    if group.others { OTHERS_AGAIN } else { rule.common.again_after_seconds * 1000 }
}

impl Firing {
    fn one(group: Group, seen: &Observation) -> Self {
        Self { group, count: 1, code: seen.code.as_deref().map(word), entries: VecDeque::from([seen.entry]) }
    }
}

/// The groups of a rule that an entry belongs to: one, or one for each operation.
fn groups(index: usize, rule: &Rule, seen: &Observation) -> Vec<Group> {
    let has = |by: By| rule.common.per.contains(&by);
    let group = Group {
        rule: index,
        others: false,
        subject: seen.subject.clone().filter(|_| has(By::Subject)),
        host: seen.host.clone().filter(|_| has(By::Host)),
        operation: None,
        code: seen.code.as_deref().filter(|_| has(By::Code)).map(word),
        source: has(By::Source).then(|| seen.source.to_string()),
        token: seen.token.as_deref().filter(|_| has(By::Token)).map(word),
        scope: seen.quota.as_ref().filter(|_| has(By::Scope)).map(|quota| word(&quota.scope)),
    };
    if !has(By::Operation) || seen.operations.is_empty() {
        return vec![group];
    }
    let wanted: HashSet<&String> = seen
        .operations
        .iter()
        .filter(|operation| rule.common.filter.takes_operation(operation))
        .take(MAX_OPERATIONS)
        .collect();
    wanted.into_iter().map(|operation| Group { operation: Some(word(operation)), ..group.clone() }).collect()
}

fn source_group(rule: usize, source: &Source) -> Group {
    let host = if let Source::Host(host) = source { Some(host.clone()) } else { None };
    Group { rule, host, source: Some(source.to_string()), ..Group::default() }
}

fn value(by: By, seen: &Observation) -> Option<String> {
    match by {
        By::Subject => seen.subject.as_ref().map(ToString::to_string),
        By::Host => seen.host.as_ref().map(ToString::to_string),
        By::Operation => seen.operations.first().cloned(),
        By::Code => seen.code.clone(),
        By::Source => Some(seen.source.to_string()),
        By::Token => seen.token.clone(),
        By::Scope => seen.quota.as_ref().map(|quota| quota.scope.clone()),
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
