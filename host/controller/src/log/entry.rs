//! What goes into a record.

use host_api::{
    Api, Code, LogRecord, PeerAddress, RecordKind, RequestId, Resource, Sentence, Sha256, Timestamp, TokenId,
};
use ids::Identity;
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// What a record says, beside what the log itself adds.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it tells.
    pub kind: RecordKind,
    /// Which operation.
    pub api: Option<Api>,
    /// Whose token.
    pub subject: Option<Identity>,
    /// Which token.
    pub token: Option<TokenId>,
    /// Which request, by its proof.
    pub request: Option<RequestId>,
    /// What the request touches.
    pub resources: Vec<Resource>,
    /// Where it came from.
    pub peer: Option<PeerAddress>,
    /// The intent that this is the outcome of.
    pub intent: Option<u64>,
    /// The outcome, where it is known already: of an intent whose act waits for this entry. It becomes a record of its
    /// own, right behind.
    pub outcome: Option<Outcome>,
    /// Why, or what.
    pub code: Option<Code>,
    /// More about it.
    pub detail: Option<Sentence>,
    /// Whether the host itself makes the record, or a caller whose token and proof were verified. Others
    /// cannot fill the whole log.
    pub trusted: bool,
}

/// What became of an intent.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it was refused; nothing if it was done.
    pub code: Option<Code>,
}

impl Entry {
    /// An entry with nothing in it.
    pub fn new(kind: RecordKind) -> Self {
        Self {
            kind,
            api: None,
            subject: None,
            token: None,
            request: None,
            resources: Vec::new(),
            peer: None,
            intent: None,
            outcome: None,
            code: None,
            detail: None,
            trusted: false,
        }
    }

    /// Something that nobody asked for.
    pub fn event(code: &str, detail: &str) -> Self {
        Self {
            code: code.parse().ok(),
            detail: Some(Sentence::from_lossy(detail)),
            ..Self::new(RecordKind::Event)
        }
    }

    /// How many records it makes.
    pub(super) fn records(&self) -> usize {
        1 + usize::from(self.outcome.is_some())
    }

    /// The outcome of intent number `seq`, which is this.
    pub(super) fn ending(&self, seq: u64) -> Option<Self> {
        let code = self.outcome.as_ref()?.code.clone();
        Some(Self { kind: RecordKind::Outcome, intent: Some(seq), outcome: None, code, ..self.clone() })
    }
}

pub(super) fn record(entry: Entry, seq: u64, now: Duration, prev: &[u8; 32]) -> LogRecord {
    LogRecord {
        seq,
        time: timestamp(now),
        kind: entry.kind,
        api: entry.api,
        subject: entry.subject,
        token: entry.token,
        request: entry.request,
        resources: entry.resources,
        peer: entry.peer,
        intent: entry.intent,
        code: entry.code,
        detail: entry.detail,
        prev: Sha256::from_digest(prev),
    }
}

/// A moment since the Unix epoch as the API writes it, to the microsecond.
fn timestamp(moment: Duration) -> Timestamp {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let moment = moment.try_into().ok().and_then(|since| OffsetDateTime::UNIX_EPOCH.checked_add(since));
    let text = moment.and_then(|moment| moment.format(&form).ok()).unwrap_or_default();
    // Only a clock outside the years 0 to 9999 has no such form.
    text.parse().unwrap_or_else(|_| Timestamp::earliest())
}

/// The moment since the Unix epoch that a record tells; zero for what is no moment since.
pub(super) fn since_epoch(time: &Timestamp) -> Duration {
    let moment = OffsetDateTime::parse(time.as_str(), &Rfc3339).ok();
    moment.and_then(|moment| (moment - OffsetDateTime::UNIX_EPOCH).try_into().ok()).unwrap_or_default()
}
