//! The records of a host's log.

use crate::{Api, Code, PeerAddress, RequestId, Resource, Sentence, Sha256, Timestamp, TokenId};
use aws_lc_rs::digest::{SHA256, digest};
use ids::Identity;

/// `prev` of the first record.
pub const GENESIS: [u8; 32] = [0; 32];

/// Most records in one page.
pub const MAX_PAGE: usize = 256;

/// No record is longer than this, in bytes, line feed included.
pub const MAX_RECORD: usize = 4096;

choices! {
    /// What a record tells.
    RecordKind: Audit {
        /// A request was admitted and will now be acted on.
        Intent = "intent",
        /// What came of an intent.
        Outcome = "outcome",
        /// A request was refused before anything was done.
        Refusal = "refusal",
        /// Something happened that nobody asked for here.
        Event = "event",
    }
}

messages! {
    /// One record. In the log it is one line: the JSON text of this structure, fields in this order,
    /// absent ones left out, no blanks. `prev` is the SHA-256 of the line before, without its line feed.
    LogRecord {
        /// Counts from 1 without gaps.
        seq: u64,
        /// When it was written, by the host's clock.
        time: Timestamp,
        /// What it tells.
        kind: RecordKind,
        /// Which operation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api: Option<Api>,
        /// Whose token it was; absent if no token of this system was sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Identity>,
        /// Which token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<TokenId>,
        /// Which request: what the caller's proof of possession says, even if it was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<RequestId>,
        /// What the request touches.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        resources: Vec<Resource>,
        /// Where it came from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<PeerAddress>,
        /// For an outcome, the intent's sequence number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        intent: Option<u64>,
        /// Why it was refused or failed, or what happened; absent for success.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        /// More about it, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Sentence>,
        /// SHA-256 of the line before.
        prev: Sha256,
    }
}

impl crate::datum::Listed for LogRecord {
    const MOST: usize = MAX_PAGE;
}

/// A record does not follow the one before it: records were changed, taken out or put in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log's chain is broken at record {seq}")]
pub struct ChainBroken {
    /// Where it should have been.
    pub seq: u64,
}

impl LogRecord {
    /// The line, without its line feed.
    pub fn line(&self) -> String {
        // A structure of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// SHA-256 of a line: the next record's `prev`.
    pub fn hash_of(line: &[u8]) -> [u8; 32] {
        let mut hash = GENESIS;
        hash.copy_from_slice(digest(&SHA256, line).as_ref());
        hash
    }

    /// Checks that this record is number `seq` and follows the line that hashes to `prev`; gives this
    /// record's own hash.
    pub fn follows(&self, seq: u64, prev: &[u8; 32]) -> Result<[u8; 32], ChainBroken> {
        if self.seq == seq && self.prev == Sha256::from_digest(prev) {
            Ok(Self::hash_of(self.line().as_bytes()))
        } else {
            Err(ChainBroken { seq })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64, prev: &[u8; 32]) -> LogRecord {
        LogRecord {
            seq,
            time: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
            kind: RecordKind::Outcome,
            api: Some(Api::ReadLog),
            subject: Some(format!("azote:service/{}", "s".repeat(48)).parse().unwrap()),
            token: Some("0".repeat(32).parse().unwrap()),
            request: Some("0".repeat(32).parse().unwrap()),
            resources: vec![Resource::Host(ids::HostId::from_random(1)); 2],
            peer: Some("[2001:db8::1%7]:65535".parse().unwrap()),
            intent: Some(u64::MAX),
            code: Some("c".repeat(Code::MAX).parse().unwrap()),
            detail: Some(Sentence::from_lossy(&"\"".repeat(Sentence::MAX))),
            prev: Sha256::from_digest(prev),
        }
    }

    #[test]
    fn the_longest_record_fits() {
        assert!(record(u64::MAX, &GENESIS).line().len() < MAX_RECORD);
    }

    #[test]
    fn a_line_reads_back_as_the_same_line_and_links_to_the_next() {
        let first = record(1, &GENESIS);
        let line = first.line();
        let again: LogRecord = serde_json::from_str(&line).unwrap();
        assert_eq!(again.line(), line);
        let hash = first.follows(1, &GENESIS).unwrap();
        record(2, &hash).follows(2, &hash).unwrap();
        assert_eq!(record(2, &GENESIS).follows(2, &hash), Err(ChainBroken { seq: 2 }));
        assert_eq!(record(3, &hash).follows(2, &hash), Err(ChainBroken { seq: 2 }));
    }
}
