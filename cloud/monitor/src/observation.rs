//! What the monitor is shown.

use ids::{HostId, Identity};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The code of an entry that tells of an alarm which could not be delivered ([`Undelivered`](crate::Undelivered)):
/// an event of the audit service.
pub const UNDELIVERED: &str = "alarm.undelivered";

/// Whose record it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// A host's log.
    Host(HostId),
    /// The token service's journal.
    Tokens,
    /// What callers say they did.
    Callers,
    /// The audit service itself: its readers, what reconciliation found, what pulling met.
    Audit,
    /// The monitor.
    Monitor,
}

impl Source {
    /// `host`, `tokens`, `callers`, `audit` or `monitor`: the name in rules.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Tokens => "tokens",
            Self::Callers => "callers",
            Self::Audit => "audit",
            Self::Monitor => "monitor",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host/{host}"),
            other => f.write_str(other.class()),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl TryFrom<String> for Source {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(match text.as_str() {
            "tokens" => Self::Tokens,
            "callers" => Self::Callers,
            "audit" => Self::Audit,
            "monitor" => Self::Monitor,
            other => {
                let host = other.strip_prefix("host/").and_then(|id| id.parse().ok());
                Self::Host(host.ok_or("not a source: want host/h-…, tokens, callers, audit or monitor")?)
            }
        })
    }
}

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A host will act.
    Intent,
    /// What came of it.
    Outcome,
    /// A host, the token service or the audit service refused.
    Refusal,
    /// Something happened that nobody asked for.
    Event,
    /// The token service gave a token.
    Issued,
    /// A caller says that it made a call.
    Attempt,
    /// Somebody read the audit log.
    Read,
}

/// How far a quota is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Which quota, as in the policies.
    pub scope: String,
    /// Used in this window, this record included.
    pub used: u64,
    /// What the window allows.
    pub limit: u64,
}

/// One entry of the audit log, as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its index in the audit log.
    pub entry: u64,
    /// When the audit service took it in, in Unix milliseconds. Windows of time are counted by this.
    pub time: u64,
    /// When its source says that it was written, in Unix milliseconds.
    pub said: Option<u64>,
    /// Whose record it is.
    pub source: Source,
    /// What it tells.
    pub kind: Kind,
    /// The host it is about.
    pub host: Option<HostId>,
    /// Who did it, if that is proven.
    pub subject: Option<Identity>,
    /// Which operations, by name; `ReadAuditLog` for readers of the audit log.
    pub operations: Vec<String>,
    /// Why it was refused or failed, or what happened.
    pub code: Option<String>,
    /// What it touches, as in tokens.
    pub resources: Vec<String>,
    /// Which token, in hexadecimal.
    pub token: Option<String>,
    /// How far a quota is used after it.
    pub quota: Option<Quota>,
}

impl Observation {
    /// An entry of which only this is known. A host's record is about that host.
    pub fn new(entry: u64, time: u64, source: Source, kind: Kind) -> Self {
        let host = if let Source::Host(host) = &source { Some(host.clone()) } else { None };
        Self {
            entry,
            time,
            said: None,
            source,
            kind,
            host,
            subject: None,
            operations: Vec::new(),
            code: None,
            resources: Vec::new(),
            token: None,
            quota: None,
        }
    }
}
