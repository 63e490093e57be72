//! What the log of earlier runs tells about who used which token how often: a restart gives no use back.

use crate::limits::Limits;
use decision::admission::{Gate, TokenId};
use host_api::{Api, LogRecord, RecordKind};
use std::time::Duration;
use token::{MAX_LIFETIME, SKEW};

/// An act that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Act {
    api: Api,
    token: TokenId,
    /// Unix seconds.
    at: u64,
}

/// What of the past still matters.
#[derive(Debug, Default)]
pub struct History {
    acts: Vec<Act>,
    /// Number and time (Unix seconds) of the first record that is still there.
    first: Option<(u64, u64)>,
    last: u64,
}

impl History {
    /// Takes a record, made at `time` since the Unix epoch. Records come in order.
    pub fn take(&mut self, record: &LogRecord, time: Duration) {
        let at = time.as_secs();
        self.first = self.first.or(Some((record.seq, at)));
        self.last = self.last.max(at);
        let token = record.token.as_ref().and_then(|token| u128::from_str_radix(token.as_str(), 16).ok());
        if let (RecordKind::Intent, Some(api), Some(token)) = (record.kind, record.api, token) {
            self.acts.push(Act { api, token: token.to_be_bytes(), at });
        }
    }

    /// A gate that counts at most `capacity` tokens and remembers every use; what sensitive operations used up goes
    /// into `limits`.
    pub fn restart(&self, capacity: usize, limits: &mut Limits) -> Gate {
        // Time never goes back in the log: what was let go of is no later than what is still there.
        let since = self.first.filter(|(seq, _)| *seq > 1).map_or(0, |(_, at)| at.saturating_add(1));
        let mut gate = Gate::restart(self.last, since, capacity);
        for Act { api, token, at } in &self.acts {
            let until = at.saturating_add(MAX_LIFETIME + SKEW);
            if until > self.last {
                gate.recount(*token, until);
            }
            limits.recount(*api, *at);
        }
        gate
    }
}
