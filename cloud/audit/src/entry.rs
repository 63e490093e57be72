//! The entries of the log: one line of JSON each, whose source says what its record is.

use crate::{reconcile::Gap, tile::MAX_ENTRY};
use host_api::{Api, Code, LogHead, LogRecord, RequestId, Resource, Sentence, TokenId};
use ids::{HostId, Identity};
use monitor::{Alarm, Source};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// The one code that a caller tells: the call did not come as far as the host.
pub const UNREACHED: &str = "call.unreachable";
/// Most attempts that a caller delivers at once.
pub const MAX_ATTEMPTS: usize = 256;

/// An entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When the audit service took it in, in milliseconds of Unix time.
    pub time: u64,
    /// Whose record it is, and the record.
    pub record: Record,
}

/// What an entry tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A record of a host's log.
    Host(HostId, Box<HostRecord>),
    /// A decision of the token service.
    Issued(Box<tokens::Entry>),
    /// What a caller says that it will do, or could not do.
    Attempt(Box<Attempt>),
    /// What the audit service did, or found.
    Audit(Box<Observed>),
    /// An alarm.
    Alarm(Box<Alarm>),
}

/// A record of a host's log, and what the host has signed about it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRecord {
    /// The record.
    pub record: LogRecord,
    /// For the last record of a page: the host's signature over the log up to it.
    pub head: Option<LogHead>,
    /// For the first record that was read of a host: the host's signature over what was before.
    pub base: Option<LogHead>,
}

/// A call at a host's door, as its caller tells it: before it is made, and again with a code if it did not come
/// as far as the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The single-use id of its proof.
    pub request: RequestId,
    /// Which token, if the caller knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// Which operation.
    pub api: Api,
    /// At which host.
    pub host: HostId,
    /// On what, at most [`token::MAX_RESOURCES`].
    pub resources: Vec<Resource>,
    /// When, in milliseconds of Unix time, by the caller's clock.
    pub time: u64,
    /// Who calls.
    pub caller: Identity,
    /// That it did not come as far as the host: [`UNREACHED`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// What the audit service did, or found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// What it is.
    pub kind: ObservedKind,
    /// What happened; absent for a read that was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Identity>,
    /// Which host it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Which operation it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Which request it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// Which token it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// What was read, or more about what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Sentence>,
    /// What the host signed that does not fit: evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<LogHead>,
}

/// What kind of observation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObservedKind {
    /// Somebody read the log.
    Read,
    /// Somebody was refused.
    Refusal,
    /// Something was found, or changed.
    Event,
}

impl Observed {
    /// An event with a code and, for people, more about it.
    pub fn event(code: &str, detail: &str) -> Self {
        Self {
            kind: ObservedKind::Event,
            code: code.parse().ok(),
            subject: None,
            host: None,
            api: None,
            request: None,
            token: None,
            detail: Some(Sentence::from_lossy(detail)),
            evidence: None,
        }
    }

    /// An event about a host.
    pub fn of_host(host: &HostId, code: &str, detail: &str) -> Self {
        Self { host: Some(host.clone()), ..Self::event(code, detail) }
    }

    /// Somebody's read of `what`, or their refusal with a code.
    pub fn read(reader: &Identity, what: &str, refused: Option<&str>) -> Self {
        let kind = if refused.is_some() { ObservedKind::Refusal } else { ObservedKind::Read };
        let code = refused.and_then(|code| code.parse().ok());
        Self { kind, code, subject: Some(reader.clone()), ..Self::event("audit.read", what) }
    }
}

impl From<Gap> for Observed {
    fn from(gap: Gap) -> Self {
        Self {
            subject: gap.subject,
            host: Some(gap.host),
            api: gap.api,
            request: gap.request,
            token: gap.token,
            ..Self::event(gap.kind.code(), gap.kind.meaning())
        }
    }
}

/// A line that is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of an audit log of this release")]
pub struct BadEntry;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    time: u64,
    source: Source,
    #[serde(borrow)]
    record: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<LogHead>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<LogHead>,
}

impl Entry {
    /// Whose record it is.
    pub fn source(&self) -> Source {
        match &self.record {
            Record::Host(host, _) => Source::Host(host.clone()),
            Record::Issued(_) => Source::Tokens,
            Record::Attempt(_) => Source::Callers,
            Record::Audit(_) => Source::Audit,
            Record::Alarm(_) => Source::Monitor,
        }
    }

    /// The line, without a line feed. None for a record that is too long for an entry.
    pub fn line(&self) -> Option<Vec<u8>> {
        let (head, base) = match &self.record {
            Record::Host(_, host) => (host.head.clone(), host.base.clone()),
            _ => (None, None),
        };
        let record = match &self.record {
            Record::Host(_, host) => raw(&host.record),
            Record::Issued(record) => raw(record),
            Record::Attempt(record) => raw(record),
            Record::Audit(record) => raw(record),
            Record::Alarm(record) => raw(record),
        };
        let record = record?;
        let line = Line { time: self.time, source: self.source(), record: &record, head, base };
        serde_json::to_vec(&line).ok().filter(|line| line.len() <= MAX_ENTRY)
    }

    /// Reads a line, which has one form only.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadEntry> {
        let line: Line<'_> = serde_json::from_slice(bytes).map_err(|_| BadEntry)?;
        let raw = line.record;
        let record = match line.source {
            Source::Host(host) => {
                let record = HostRecord { record: read(raw)?, head: line.head, base: line.base };
                Record::Host(host, Box::new(record))
            }
            Source::Tokens => Record::Issued(Box::new(read(raw)?)),
            Source::Callers => Record::Attempt(Box::new(read(raw)?)),
            Source::Audit => Record::Audit(Box::new(read(raw)?)),
            Source::Monitor => Record::Alarm(Box::new(read(raw)?)),
        };
        let entry = Self { time: line.time, record };
        if entry.line().is_some_and(|again| again == bytes) { Ok(entry) } else { Err(BadEntry) }
    }
}

fn raw(record: &impl Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(record).ok()
}

fn read<T: DeserializeOwned>(raw: &RawValue) -> Result<T, BadEntry> {
    serde_json::from_str(raw.get()).map_err(|_| BadEntry)
}

/// Reads callers' attempts as they are posted.
pub fn read_attempts(body: &[u8]) -> Result<Vec<Attempt>, serde_json::Error> {
    use serde::de::Error;
    let attempts: Vec<Attempt> = serde_json::from_slice(body)?;
    // Rules of the monitor go by codes: no caller speaks as a host, or as the audit service.
    let code = |attempt: &Attempt| attempt.code.as_ref().is_none_or(|code| code.as_str() == UNREACHED);
    let fits = |attempt: &Attempt| attempt.resources.len() <= token::MAX_RESOURCES && code(attempt);
    if attempts.len() <= MAX_ATTEMPTS && attempts.iter().all(fits) {
        Ok(attempts)
    } else {
        let (attempts, resources) = (MAX_ATTEMPTS, token::MAX_RESOURCES);
        Err(Error::custom(format!(
            "at most {attempts} attempts on {resources} resources each, with no code but {UNREACHED}"
        )))
    }
}
