//! The contexts in which two configurations are compared: every value that a policy can tell apart, where a
//! value is one of few, and those that the policies themselves mention, where it is one of many.

use crate::{Attestation, Rights, decide::MAX_TICKET};
use serde_json::Value;
use std::collections::BTreeSet;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time, macros::format_description};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Most instants.
const MAX_TIMES: usize = 512;
/// Most tickets.
const MAX_TICKETS: usize = 64;

/// One context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Corner {
    pub(crate) ticket: Option<String>,
    pub(crate) attestation: Attestation,
    pub(crate) drained: bool,
    /// Unix seconds.
    pub(crate) now: u64,
}

impl Corner {
    /// What tells it from others, in words, one for each dimension.
    pub(crate) fn words(&self) -> [String; 4] {
        let ticket =
            self.ticket.as_ref().map_or_else(|| "without a ticket".to_owned(), |t| format!("ticket {t}"));
        let drained = if self.drained { "drained" } else { "not drained" };
        let now = i64::try_from(self.now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
        let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
        let now = now.and_then(|now| now.format(form).ok()).unwrap_or_default();
        [ticket, format!("attestation {}", self.attestation.name()), drained.to_owned(), now]
    }
}

/// All combinations.
pub(crate) fn corners(old: &Rights, new: &Rights) -> Vec<Corner> {
    let mut mentioned = Mentioned::default();
    for policy in old.policies().policies().chain(new.policies().policies()) {
        mentioned.collect(&policy.to_json().unwrap_or_default()["conditions"]);
    }
    let (mut tickets, mut times) = (BTreeSet::from([None, Some("T-1".to_owned())]), BTreeSet::new());
    for literal in mentioned.literals {
        times.extend(
            instant(&literal).into_iter().flat_map(|t| [t.saturating_sub(1), t, t.saturating_add(1)]),
        );
        let ticket =
            (1..=MAX_TICKET).contains(&literal.len()) && literal.bytes().all(|b| b.is_ascii_graphic());
        if ticket && tickets.len() < MAX_TICKETS {
            tickets.insert(Some(literal));
        }
    }
    times.insert(20_000 * DAY);
    if mentioned.now {
        let days: BTreeSet<u64> = times.iter().map(|time| time / DAY).collect();
        times.extend(days.iter().flat_map(|day| (0..24).map(move |hour| day * DAY + hour * HOUR)));
    }
    let mut all = Vec::new();
    for ticket in &tickets {
        for attestation in Attestation::ALL {
            for drained in [false, true] {
                let corner = |now: &u64| Corner {
                    ticket: ticket.clone(),
                    attestation: *attestation,
                    drained,
                    now: *now,
                };
                all.extend(times.iter().take(MAX_TIMES).map(corner));
            }
        }
    }
    all
}

/// What a condition mentions.
#[derive(Default)]
struct Mentioned {
    /// Strings; of patterns, with something in place of each `*`.
    literals: Vec<String>,
    now: bool,
}

impl Mentioned {
    /// Walks a condition in Cedar's JSON form.
    fn collect(&mut self, json: &Value) {
        match json {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("__entity", _) => {}
                ("Value", Value::String(text)) => self.literals.push(text.clone()),
                ("attr", Value::String(name)) => self.now |= name == "now",
                ("pattern", Value::Array(parts)) => {
                    let text = parts.iter().map(|part| part["Literal"].as_str().unwrap_or("1"));
                    self.literals.push(text.collect());
                }
                (_, value) => self.collect(value),
            }),
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            _ => {}
        }
    }
}

/// What Cedar's `datetime` takes, to the second.
fn instant(text: &str) -> Option<u64> {
    let date = format_description!("[year]-[month]-[day]");
    let whole = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let at = match text.get(..19) {
        Some(start) => PrimitiveDateTime::parse(start, whole).ok()?,
        None => PrimitiveDateTime::new(Date::parse(text, date).ok()?, Time::MIDNIGHT),
    };
    u64::try_from(at.assume_utc().unix_timestamp()).ok()
}
