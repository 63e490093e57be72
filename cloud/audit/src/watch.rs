//! Entries as the monitor sees them.

use crate::entry::{Entry, ObservedKind, Record};
use host_api::{LogRecord, RecordKind};
use monitor::{Kind, Observation, Quota};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What the monitor is shown of an entry; nothing of its own alarms.
pub(crate) fn observation(index: u64, entry: &Entry) -> Option<Observation> {
    let new = |kind| Observation::new(index, entry.time, entry.source(), kind);
    Some(match &entry.record {
        Record::Host(_, host) => of_host(&host.record, new),
        Record::Issued(decision) => {
            let kind = match decision.kind {
                tokens::Kind::Issued => Kind::Issued,
                tokens::Kind::Refused => Kind::Refusal,
                tokens::Kind::Incident | tokens::Kind::Keys | tokens::Kind::Appraised => Kind::Event,
            };
            Observation {
                said: Some(decision.time),
                host: decision.audience.clone(),
                subject: decision.subject.clone(),
                operations: words(&decision.operations),
                code: decision.code.clone(),
                resources: words(&decision.resources),
                token: decision.token.clone(),
                quota: decision.quota.as_ref().map(|tokens::Used { quota, used, limit }| Quota {
                    scope: quota.clone(),
                    used: *used,
                    limit: *limit,
                }),
                ..new(kind)
            }
        }
        Record::Attempt(attempt) => Observation {
            said: Some(attempt.time),
            host: Some(attempt.host.clone()),
            subject: Some(attempt.caller.clone()),
            operations: words([attempt.api]),
            code: attempt.code.as_ref().map(ToString::to_string),
            resources: words(&attempt.resources),
            token: attempt.token.as_ref().map(ToString::to_string),
            ..new(Kind::Attempt)
        },
        Record::Audit(observed) => {
            let kind = match observed.kind {
                ObservedKind::Read => Kind::Read,
                ObservedKind::Refusal => Kind::Refusal,
                ObservedKind::Event => Kind::Event,
            };
            let reads = kind == Kind::Read || (kind == Kind::Refusal && observed.api.is_none());
            Observation {
                host: observed.host.clone(),
                subject: observed.subject.clone(),
                operations: if reads { words(["ReadAuditLog"]) } else { words(observed.api) },
                code: observed.code.as_ref().map(ToString::to_string),
                token: observed.token.as_ref().map(ToString::to_string),
                ..new(kind)
            }
        }
        Record::Alarm(_) => return None,
    })
}

fn of_host(record: &LogRecord, new: impl Fn(Kind) -> Observation) -> Observation {
    let kind = match record.kind {
        RecordKind::Intent => Kind::Intent,
        RecordKind::Outcome => Kind::Outcome,
        RecordKind::Refusal => Kind::Refusal,
        RecordKind::Event => Kind::Event,
    };
    Observation {
        said: milliseconds(record.time.as_str()),
        subject: record.subject.clone(),
        operations: words(record.api),
        code: record.code.as_ref().map(ToString::to_string),
        resources: words(&record.resources),
        token: record.token.as_ref().map(ToString::to_string),
        ..new(kind)
    }
}

fn words<T: ToString>(of: impl IntoIterator<Item = T>) -> Vec<String> {
    of.into_iter().map(|word| word.to_string()).collect()
}

fn milliseconds(time: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}
