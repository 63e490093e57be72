//! The rules: data, parsed strictly. What is not understood is refused, and every number has bounds.

use crate::{Kind, Observation, Severity};
use ids::Identity;
use operations::Operation;
use serde::Deserialize;
use std::{collections::BTreeSet, ops::RangeInclusive};

/// Longest rules file in bytes.
const MAX_FILE: usize = 64 * 1024;
const MAX_RULES: usize = 128;
const MAX_LIST: usize = 64;
const MAX_WORD: usize = 64;
const MAX_SENTENCE: usize = 300;
/// A name of readers of the audit log's only operation; it is none of a host.
const READ_AUDIT_LOG: &str = "ReadAuditLog";
const SOURCES: [&str; 5] = ["host", "tokens", "callers", "audit", "monitor"];
const SUBJECTS: [&str; 6] = ["operator", "service", "tenant", "host", "importer", "unknown"];
const PLACES: [&str; 7] = ["{subject}", "{host}", "{operation}", "{code}", "{count}", "{source}", "{scope}"];
/// The keys that any rule may have; the others belong to what it watches.
const COMMON: [&str; 12] = [
    "id",
    "severity",
    "summary",
    "runbook",
    "per",
    "again_after_seconds",
    "sources",
    "kinds",
    "codes",
    "operations",
    "sensitive",
    "subjects",
];

/// Why a file is no set of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Longer than it may be.
    #[error("the alarm rules are longer than {MAX_FILE} bytes: split what does not belong together")]
    TooLong,
    /// Not TOML, or not of this shape.
    #[error("the alarm rules cannot be read: {0}")]
    Syntax(String),
    /// A rule says what cannot be.
    #[error("alarm rule `{rule}`: {what}")]
    Rule {
        /// Which rule.
        rule: String,
        /// What is wrong with it.
        what: String,
    },
    /// The file as a whole says what cannot be.
    #[error("the alarm rules: {0}")]
    Whole(String),
}

impl RulesError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        "alarms.rules"
    }
}

/// What groups of entries are kept apart by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum By {
    Subject,
    Host,
    Operation,
    Code,
    Source,
    Token,
    Scope,
}

/// How much the monitor remembers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Groups of entries that are told apart, in each of the monitor's tables.
    pub(crate) groups: usize,
}

/// A rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) common: Common,
    pub(crate) watch: Watch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    limits: Limits,
    rule: Vec<toml::Table>,
}

/// What every rule has: the keys in [`COMMON`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Common {
    pub(crate) id: String,
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) runbook: String,
    #[serde(default)]
    pub(crate) per: BTreeSet<By>,
    pub(crate) again_after_seconds: u64,
    #[serde(flatten)]
    pub(crate) filter: Filter,
}

/// Which entries a rule looks at; an empty list takes all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Filter {
    sources: BTreeSet<String>,
    kinds: BTreeSet<Kind>,
    codes: BTreeSet<String>,
    operations: BTreeSet<String>,
    sensitive: bool,
    subjects: BTreeSet<String>,
}

/// What a rule watches for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "watches", rename_all = "kebab-case")]
pub(crate) enum Watch {
    Seen(Seen),
    Unusual(Unusual),
    FirstUse(FirstUse),
    Quota(QuotaAt),
    Clock(Clock),
    Crowded(Crowded),
}

/// So many entries within so long; one is the least.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    #[serde(default = "one")]
    pub(crate) count: usize,
    #[serde(default = "one_second")]
    pub(crate) within_seconds: u64,
    /// Count different values of this instead of entries.
    pub(crate) distinct: Option<By>,
}

/// More entries in a slot of time than this group's own past lets expect.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unusual {
    pub(crate) slot_seconds: u64,
    /// The past counts for half after so many slots.
    pub(crate) half_life_slots: u32,
    /// Slots before the past is believed; until then `first` is the bound.
    pub(crate) learn_slots: u32,
    pub(crate) first: u32,
    /// Standard deviations above the mean that are still usual.
    pub(crate) deviations: u32,
    /// Never unusual up to here,
    pub(crate) at_least: u32,
    /// and always above here, whatever was learned.
    pub(crate) at_most: u32,
}

/// A group that was not seen before, of a subject that was.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FirstUse {
    /// The subject is known for at least so long.
    pub(crate) settle_seconds: u64,
    /// What was not seen for so long is new again.
    pub(crate) forget_seconds: u64,
}

/// A quota used up to so many percent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaAt {
    pub(crate) percent: u64,
}

/// A source's own times run ahead of ours or go back.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clock {
    pub(crate) ahead_seconds: u64,
    pub(crate) back_seconds: u64,
}

/// The monitor cannot tell more groups apart.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Crowded {}

fn one() -> usize {
    1
}

fn one_second() -> u64 {
    1
}

/// A checked set of rules.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(crate) limits: Limits,
    pub(crate) rules: Vec<Rule>,
}

impl Rules {
    /// Reads rules from TOML. `policies/alarms.toml` is such a file and says what each part means.
    ///
    /// # Errors
    /// [`RulesError`] names the rule and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        if text.len() > MAX_FILE {
            return Err(RulesError::TooLong);
        }
        let file: File = toml::from_str(text).map_err(|e| RulesError::Syntax(e.message().to_owned()))?;
        let whole = |what: String| Err(RulesError::Whole(what));
        if file.rule.is_empty() || file.rule.len() > MAX_RULES {
            return whole(format!("want 1 to {MAX_RULES} rules"));
        }
        within("groups", file.limits.groups, 16..=100_000).map_err(RulesError::Whole)?;
        let rules = file.rule.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        let mut ids = BTreeSet::new();
        if let Some(twice) = rules.iter().find(|rule| !ids.insert(rule.common.id.as_str())) {
            return whole(format!("the rule id `{}` is there twice", twice.common.id));
        }
        Ok(Self { limits: file.limits, rules })
    }

    /// The rules that this release was built with.
    ///
    /// # Errors
    /// None in a release whose tests pass.
    pub fn embedded() -> Result<Self, RulesError> {
        Self::parse(include_str!("../../../policies/alarms.toml"))
    }

    /// The ids of the rules, in the file's order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.common.id.as_str())
    }
}

fn rule(mut table: toml::Table) -> Result<Rule, RulesError> {
    let id = table.get("id").and_then(toml::Value::as_str).unwrap_or("without an id");
    let id: String = id.chars().take(MAX_WORD).collect();
    let wrong = |what: String| RulesError::Rule { rule: id.clone(), what };
    let syntax = |error: toml::de::Error| wrong(error.message().to_owned());
    let common: toml::Table =
        COMMON.iter().filter_map(|key| Some(((*key).to_owned(), table.remove(*key)?))).collect();
    let mut common: Common = common.try_into().map_err(syntax)?;
    let watch: Watch = table.try_into().map_err(syntax)?;
    common.check().and_then(|()| watch.check()).map_err(wrong)?;
    if common.filter.sensitive {
        let sensitive = Operation::ALL.iter().filter(|operation| operation.sensitive());
        common.filter.operations.extend(sensitive.map(|operation| operation.name().to_owned()));
    }
    Ok(Rule { common, watch })
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} is {value}: want {} to {}", range.start(), range.end()))
    }
}

/// Seconds that a window may be long.
const WINDOW: RangeInclusive<u64> = 1..=604_800;

impl Common {
    fn check(&self) -> Result<(), String> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=MAX_WORD).contains(&self.id.len()) || !self.id.bytes().all(word) {
            return Err(format!("id: want 1 to {MAX_WORD} of a-z, 0-9 and -"));
        }
        for (name, text) in [("summary", &self.summary), ("runbook", &self.runbook)] {
            if !(1..=MAX_SENTENCE).contains(&text.len()) || text.chars().any(char::is_control) {
                return Err(format!("{name}: want one line of 1 to {MAX_SENTENCE} bytes"));
            }
        }
        let bare = PLACES.iter().fold(self.summary.clone(), |text, place| text.replace(place, ""));
        if bare.contains(['{', '}']) {
            return Err(format!("summary: the places to fill are {}", PLACES.join(" ")));
        }
        within("again_after_seconds", self.again_after_seconds, WINDOW)?;
        self.filter.check()
    }
}

impl Filter {
    fn check(&self) -> Result<(), String> {
        let known = |name: &str, words: &BTreeSet<String>, known: &[&str]| {
            let unknown = words.iter().find(|word| !known.contains(&word.as_str()));
            unknown.map_or(Ok(()), |word| Err(format!("{name}: `{word}` is none of {}", known.join(", "))))
        };
        let operations: Vec<_> =
            Operation::ALL.iter().map(|operation| operation.name()).chain([READ_AUDIT_LOG]).collect();
        known("sources", &self.sources, &SOURCES)?;
        known("subjects", &self.subjects, &SUBJECTS)?;
        known("operations", &self.operations, &operations)?;
        if self.codes.len() > MAX_LIST {
            return Err(format!("codes: at most {MAX_LIST}"));
        }
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let code = |code: &str| {
            let stem = code.strip_suffix(".*").unwrap_or(code);
            (1..=MAX_WORD).contains(&stem.len()) && stem.bytes().all(letter)
        };
        match self.codes.iter().find(|text| !code(text)) {
            Some(text) => {
                Err(format!("codes: `{text}` is no code, nor the beginning of some with `.*` at its end"))
            }
            None => Ok(()),
        }
    }

    /// Whether the rule looks at this entry.
    pub(crate) fn takes(&self, seen: &Observation) -> bool {
        let has = |set: &BTreeSet<String>, word: &str| set.is_empty() || set.contains(word);
        has(&self.sources, seen.source.class())
            && (self.kinds.is_empty() || self.kinds.contains(&seen.kind))
            && has(&self.subjects, class(seen.subject.as_ref()))
            && (self.codes.is_empty() || seen.code.as_deref().is_some_and(|code| self.takes_code(code)))
            && (self.operations.is_empty() || seen.operations.iter().any(|o| self.takes_operation(o)))
    }

    fn takes_code(&self, code: &str) -> bool {
        self.codes.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(stem) => code.starts_with(stem),
            None => code == wanted,
        })
    }

    /// Whether the rule looks at this operation.
    pub(crate) fn takes_operation(&self, operation: &str) -> bool {
        self.operations.is_empty() || self.operations.contains(operation)
    }
}

/// `operator`, `service`, `tenant`, `host`, `importer` or `unknown`.
fn class(subject: Option<&Identity>) -> &'static str {
    match subject {
        Some(Identity::Operator(_)) => "operator",
        Some(Identity::Service(_)) => "service",
        Some(Identity::Tenant(_)) => "tenant",
        Some(Identity::Host(_)) => "host",
        Some(Identity::Importer(_)) => "importer",
        None => "unknown",
    }
}

impl Watch {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Seen(seen) => {
                within("count", seen.count, 1..=100)?;
                within("within_seconds", seen.within_seconds, WINDOW)
            }
            Self::Unusual(unusual) => {
                within("slot_seconds", unusual.slot_seconds, 1..=86_400)?;
                within("half_life_slots", unusual.half_life_slots, 1..=10_000)?;
                within("learn_slots", unusual.learn_slots, 1..=10_000)?;
                within("deviations", unusual.deviations, 1..=100)?;
                within("at_most", unusual.at_most, 1..=1_000_000)?;
                within("at_least", unusual.at_least, 1..=unusual.at_most)?;
                within("first", unusual.first, 1..=unusual.at_most)
            }
            Self::FirstUse(first) => {
                within("settle_seconds", first.settle_seconds, WINDOW)?;
                within("forget_seconds", first.forget_seconds, 1..=31_536_000)
            }
            Self::Quota(quota) => within("percent", quota.percent, 1..=100),
            Self::Clock(clock) => {
                within("ahead_seconds", clock.ahead_seconds, 1..=86_400)?;
                within("back_seconds", clock.back_seconds, 1..=86_400)
            }
            Self::Crowded(_) => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
