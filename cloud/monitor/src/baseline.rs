//! What is usual for one group: mean and deviation of its entries in a slot of time, learned as time passes.

use crate::rules::Unusual;
use std::collections::VecDeque;

/// Slots without any entry that are learned one by one; after more the past is as good as forgotten.
const MOST_EMPTY: u64 = 4096;

/// The learned past of one group, and its present slot.
#[derive(Debug)]
pub(crate) struct Baseline {
    slot: u64,
    count: u32,
    mean: f64,
    variance: f64,
    learned: u32,
    pub(crate) entries: VecDeque<u64>,
}

impl Baseline {
    pub(crate) fn new(now: u64, rule: &Unusual) -> Self {
        let slot = slot(now, rule);
        Self { slot, count: 0, mean: 0.0, variance: 0.0, learned: 0, entries: VecDeque::new() }
    }

    /// How many entries a slot may have and still be usual.
    pub(crate) fn bound(&self, rule: &Unusual) -> u32 {
        if self.learned < rule.learn_slots {
            return rule.first;
        }
        let usual = self.mean + f64::from(rule.deviations) * self.variance.sqrt();
        // The clamp keeps it inside the bounds of the rule, so that no digit is lost.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let usual = usual.clamp(0.0, f64::from(rule.at_most)).ceil() as u32;
        usual.clamp(rule.at_least, rule.at_most)
    }

    /// Learns the slots that are over. What was above the bound is learned as if it had been at the bound: who
    /// goes too far does not move the bound by that.
    fn turn(&mut self, now: u64, rule: &Unusual) {
        let slot = slot(now, rule);
        let weight = 1.0 - 0.5_f64.powf(1.0 / f64::from(rule.half_life_slots));
        for _ in 0..slot.saturating_sub(self.slot).min(MOST_EMPTY) {
            let off = f64::from(self.count.min(self.bound(rule))) - self.mean;
            self.mean += weight * off;
            self.variance = (1.0 - weight) * (self.variance + weight * off * off);
            self.learned = self.learned.saturating_add(1);
            self.count = 0;
            self.entries.clear();
        }
        self.slot = self.slot.max(slot);
    }

    /// One more entry; whether it is the first that is too many in its slot.
    pub(crate) fn count(&mut self, now: u64, entry: u64, rule: &Unusual) -> bool {
        self.turn(now, rule);
        self.count = self.count.saturating_add(1);
        crate::engine::push(&mut self.entries, entry);
        self.count == self.bound(rule).saturating_add(1)
    }

    pub(crate) fn counted(&self) -> u64 {
        u64::from(self.count)
    }

    /// Whether nothing was learned that a new one would not know: no entry for eight half-lives.
    pub(crate) fn idle(&self, now: u64, rule: &Unusual) -> bool {
        slot(now, rule).saturating_sub(self.slot) > 8 * u64::from(rule.half_life_slots)
    }
}

fn slot(now: u64, rule: &Unusual) -> u64 {
    now / 1000 / rule.slot_seconds.max(1)
}
