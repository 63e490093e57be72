//! What the monitor remembers of groups of entries: never more than so many.

use ids::{HostId, Identity};
use std::collections::HashMap;

/// Longest text that is kept of a word in an entry, in bytes.
const MAX_WORD: usize = 64;

/// Entries that a rule counts together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Group {
    /// Index of the rule.
    pub(crate) rule: usize,
    /// Whatever has no place of its own any more.
    pub(crate) others: bool,
    pub(crate) subject: Option<Identity>,
    pub(crate) host: Option<HostId>,
    pub(crate) operation: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) scope: Option<String>,
}

/// A word as it is kept: short enough.
pub(crate) fn word(text: &str) -> String {
    let mut end = text.len().min(MAX_WORD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// A bounded map. When it is full of groups that are still needed, or a rule has its share, the groups that are new to
/// it share one place for each rule: an attacker who makes many names hides none that is watched already, and is told
/// of.
#[derive(Debug)]
pub(crate) struct Table<V> {
    map: HashMap<Group, V>,
    /// How many groups each rule has.
    of_rule: HashMap<usize, usize>,
    limit: usize,
    share: usize,
    swept: u64,
    crowded: bool,
}

impl<V> Table<V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self::shared(limit, limit)
    }

    /// Of which one rule has no more than its `share`.
    pub(crate) fn shared(limit: usize, share: usize) -> Self {
        Self { map: HashMap::new(), of_rule: HashMap::new(), limit, share, swept: 0, crowded: false }
    }

    fn is_full(&self, rule: usize) -> bool {
        self.map.len() >= self.limit || self.of_rule.get(&rule).is_some_and(|groups| *groups >= self.share)
    }

    /// The group's value, made if it is new, and under which group it is; what is idle at `now` (Unix milliseconds)
    /// may go for it.
    pub(crate) fn at(
        &mut self,
        group: &Group,
        now: u64,
        idle: impl Fn(&Group, &V) -> bool,
        new: impl FnOnce() -> V,
    ) -> (Group, &mut V) {
        let mut group = group.clone();
        if self.is_full(group.rule) && !self.map.contains_key(&group) {
            // A sweep costs as much as the table is long: at most one in a second.
            if now >= self.swept + 1000 {
                self.swept = now;
                self.retain(|group, value| !idle(group, value));
            }
            if self.is_full(group.rule) {
                self.crowded = true;
                group = Group { rule: group.rule, others: true, ..Group::default() };
            }
        }
        let of_rule = &mut self.of_rule;
        let value = self.map.entry(group.clone()).or_insert_with(|| {
            *of_rule.entry(group.rule).or_default() += 1;
            new()
        });
        (group, value)
    }

    /// Whether groups had to share a place since this was last asked.
    pub(crate) fn take_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Group, &mut V) -> bool) {
        self.map.retain(keep);
        self.of_rule.clear();
        self.map.keys().for_each(|group| *self.of_rule.entry(group.rule).or_default() += 1);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}
