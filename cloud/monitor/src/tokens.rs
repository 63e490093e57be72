//! Tokens that hosts took and the token service's journal does not have.

use crate::engine::{Firing, push};
use std::collections::{HashMap, HashSet, VecDeque};

/// Most tokens that wait for the journal.
const MAX_WAITING: usize = 10_000;

/// What was issued, and what waits to be found in the journal. A token is known by a keyed 64-bit hash that
/// nobody outside can aim at.
#[derive(Debug)]
pub(crate) struct Tokens {
    issued: HashSet<u64>,
    order: VecDeque<u64>,
    limit: usize,
    waiting: HashMap<u64, Waiting>,
    read: u64,
    crowded: bool,
}

struct Waiting {
    due: u64,
    firing: Firing,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            issued: HashSet::new(),
            order: VecDeque::new(),
            limit,
            waiting: HashMap::new(),
            read: 0,
            crowded: false,
        }
    }

    /// The journal has this token. When there are too many, the oldest is forgotten: its use would be a false
    /// alarm, never a missed one.
    pub(crate) fn issued(&mut self, token: u64) {
        self.waiting.remove(&token);
        if !self.issued.insert(token) {
            return;
        }
        self.order.push_back(token);
        if self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.issued.remove(&oldest);
            }
        }
    }

    /// A host took this token; the journal must have it when it is read at or after `due`.
    pub(crate) fn used(&mut self, token: u64, due: u64, firing: Firing) {
        if self.issued.contains(&token) {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&token) {
            waiting.firing.count += firing.count;
            firing.entries.iter().for_each(|entry| push(&mut waiting.firing.entries, *entry));
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(token, Waiting { due, firing });
        } else {
            self.crowded = true;
        }
    }

    /// The journal was read to its end at this time.
    pub(crate) fn journal_read(&mut self, now: u64) {
        self.read = self.read.max(now);
    }

    /// Tokens of this rule that the journal should have by now.
    pub(crate) fn due(&mut self, rule: usize) -> Vec<Firing> {
        let read = self.read;
        self.waiting
            .extract_if(|_, waiting| waiting.due <= read && waiting.firing.group.rule == rule)
            .map(|(_, waiting)| waiting.firing)
            .collect()
    }

    pub(crate) fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }
}
