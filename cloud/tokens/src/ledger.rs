//! What comes between a decision and a signature: quota is taken and the decision is written down, both durable,
//! before anything is signed or told. A state machine without I/O; the service drives it with its store, the model
//! checker with every order of events and crashes.
//!
//! A request becomes a [`Write`]. Its caller makes the writes durable in their order, says so with
//! [`Ledger::durable`], and gets for a grant a [`Permit`], without which nothing can be signed. After a crash
//! [`Ledger::restart`] goes on from what was durable: what was taken stays taken, signed or not.

use crate::Used;
use decision::quota::{Spent, Window};
use std::collections::BTreeMap;

/// What a grant takes from one quota.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Charge {
    /// Which quota.
    pub quota: String,
    /// The most of it in one window.
    pub limit: u64,
    /// The window in seconds.
    pub window: u64,
    /// How much is taken.
    pub cost: u64,
}

/// How many entries the journal holds until they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capacity {
    /// With as many nothing is signed any more.
    pub entries: u64,
    /// With as many no refusals are taken any more: who has no rights cannot stop those who have.
    pub refusals: u64,
    /// With as many nothing of strangers is taken any more.
    pub strangers: u64,
}

/// One durable step: quotas and a journal entry, both or neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    /// Number of the journal entry, from 1, without gaps.
    pub seq: u64,
    /// What the quotas are afterwards.
    pub windows: Vec<(String, Window)>,
    grant: bool,
}

impl Write {
    /// The quota that has least left of what it allows.
    pub(crate) fn fullest(&self) -> Option<Used> {
        let share = |window: &Window| {
            u128::from(window.used) * u128::from(u64::MAX) / u128::from(window.limit.max(1))
        };
        let (quota, window) = self.windows.iter().max_by_key(|(_, window)| share(window))?;
        Some(Used { quota: quota.clone(), used: window.used, limit: window.limit })
    }
}

/// Allows one signature: its quota and its entry are durable.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(u64);

impl Permit {
    /// Number of the journal entry.
    pub fn seq(&self) -> u64 {
        self.0
    }
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The journal is full.
    #[error("the journal is full: nothing is signed until the audit service has taken it over")]
    Full,
    /// An earlier write failed.
    #[error("the journal cannot be written: the service must be started again")]
    Broken,
    /// A quota is used up.
    #[error("the quota {quota} has {} left", spent.left)]
    Spent {
        /// Which.
        quota: String,
        /// What is left, and until when.
        spent: Spent,
    },
}

/// What survives a crash. The store keeps exactly this.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Durable {
    /// Quotas in use.
    pub windows: BTreeMap<String, Window>,
    /// The last entry written; 0 for none.
    pub last: u64,
    /// The last entry that the audit service has taken over; those up to it are gone.
    pub acknowledged: u64,
}

impl Durable {
    /// Takes one write over.
    pub fn apply(&mut self, write: &Write) {
        self.windows.extend(write.windows.iter().cloned());
        self.last = write.seq;
    }
}

/// The state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    capacity: Capacity,
    /// What will be durable when every write is.
    state: Durable,
    durable: u64,
    broken: bool,
}

impl Ledger {
    /// Goes on from what was durable.
    pub fn restart(capacity: Capacity, durable: Durable) -> Self {
        Self { capacity, durable: durable.last, state: durable, broken: false }
    }

    /// Takes from every quota or from none, `now` in Unix seconds.
    pub fn grant(&mut self, charges: &[Charge], now: u64) -> Result<Write, Refused> {
        self.room(self.capacity.entries)?;
        let mut windows: BTreeMap<&str, Window> = BTreeMap::new();
        for Charge { quota, limit, window, cost } in charges {
            let taken = windows.get(quota.as_str()).or_else(|| self.state.windows.get(quota));
            let taken = taken.copied().unwrap_or(Window::new(now, *window, *limit));
            // The quota is what the configuration says now; what was used of it stays used.
            let taken = Window { length: *window, limit: *limit, ..taken }.take(now, *cost);
            let taken = taken.map_err(|spent| Refused::Spent { quota: quota.clone(), spent })?;
            windows.insert(quota, taken);
        }
        let windows = windows.into_iter().map(|(quota, window)| (quota.to_owned(), window)).collect();
        Ok(self.write(windows, true))
    }

    /// Writes down a refusal; `known` says whether it is known whose.
    pub fn refuse(&mut self, known: bool) -> Result<Write, Refused> {
        self.room(if known { self.capacity.refusals } else { self.capacity.strangers })?;
        Ok(self.write(Vec::new(), false))
    }

    /// Writes down what the service itself does.
    pub fn note(&mut self) -> Result<Write, Refused> {
        self.room(self.capacity.entries)?;
        Ok(self.write(Vec::new(), false))
    }

    /// Every write up to `seq` is durable.
    pub fn durable(&mut self, seq: u64) {
        self.durable = self.durable.max(seq.min(self.state.last));
    }

    /// A write failed: nobody knows what is durable, so nothing goes on before a restart.
    pub fn broke(&mut self) {
        self.broken = true;
    }

    /// The right to sign what `write` has written down, once it is durable.
    pub fn permit(&self, write: &Write) -> Option<Permit> {
        (write.grant && write.seq <= self.durable && !self.broken).then_some(Permit(write.seq))
    }

    /// The audit service has taken over the entries up to `seq`; gives the number that may go. What is not durable
    /// yet cannot have been taken over.
    pub fn acknowledge(&mut self, seq: u64) -> u64 {
        self.state.acknowledged = self.state.acknowledged.max(seq.min(self.durable));
        self.state.acknowledged
    }

    /// What is left of a quota, if it was ever used.
    pub fn left(&self, quota: &str, now: u64) -> Option<u64> {
        self.state.windows.get(quota).map(|window| window.left(now))
    }

    /// The last entry that is durable.
    pub fn last(&self) -> u64 {
        self.durable
    }

    fn room(&self, capacity: u64) -> Result<(), Refused> {
        if self.broken {
            Err(Refused::Broken)
        } else if self.state.last - self.state.acknowledged >= capacity {
            Err(Refused::Full)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, windows: Vec<(String, Window)>, grant: bool) -> Write {
        let write = Write { seq: self.state.last + 1, windows, grant };
        self.state.apply(&write);
        write
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: Capacity = Capacity { entries: 8, refusals: 6, strangers: 4 };

    fn charge(quota: &str, limit: u64, cost: u64) -> Charge {
        Charge { quota: quota.to_owned(), limit, window: 60, cost }
    }

    #[test]
    fn nothing_is_permitted_before_it_is_durable() {
        let mut ledger = Ledger::restart(ROOM, Durable::default());
        let write = ledger.grant(&[charge("alice", 1, 1)], 100).unwrap();
        assert_eq!(ledger.permit(&write), None);
        ledger.durable(write.seq);
        assert_eq!(ledger.permit(&write).unwrap().seq(), 1);
        let refusal = ledger.refuse(true).unwrap();
        ledger.durable(refusal.seq);
        assert_eq!(ledger.permit(&refusal), None, "a refusal is never signed");
        let late = ledger.grant(&[], 100).unwrap();
        ledger.broke();
        ledger.durable(late.seq);
        assert_eq!(ledger.permit(&late), None);
        assert_eq!(ledger.refuse(true), Err(Refused::Broken));
    }

    #[test]
    fn all_quotas_are_charged_or_none() {
        let mut ledger = Ledger::restart(ROOM, Durable::default());
        let both = [charge("alice", 5, 1), charge("fleet", 2, 1)];
        ledger.grant(&both, 100).unwrap();
        ledger.grant(&both, 100).unwrap();
        let refused = ledger.grant(&both, 100).unwrap_err();
        assert!(
            matches!(&refused, Refused::Spent { quota, spent } if quota == "fleet" && spent.until == 160)
        );
        assert_eq!(ledger.left("alice", 100), Some(3), "the refusal took nothing of hers");
        ledger.grant(&both, 160).unwrap();
        let twice = [charge("alice", 5, 3), charge("alice", 5, 3)];
        assert!(ledger.grant(&twice, 160).is_err(), "one quota named twice is charged twice");
    }

    #[test]
    fn a_full_journal_signs_nothing_and_refusals_cannot_fill_it() {
        let mut ledger = Ledger::restart(ROOM, Durable::default());
        for n in 0..ROOM.refusals {
            let write = ledger.refuse(n >= ROOM.strangers).unwrap();
            assert_eq!(ledger.clone().refuse(false).is_ok(), n + 1 < ROOM.strangers);
            ledger.durable(write.seq);
        }
        assert_eq!(ledger.refuse(true), Err(Refused::Full));
        for _ in ROOM.refusals..ROOM.entries {
            ledger.grant(&[], 1).unwrap();
        }
        assert_eq!(ledger.grant(&[], 1), Err(Refused::Full));
        assert_eq!(ledger.note(), Err(Refused::Full));
        assert_eq!(ledger.acknowledge(u64::MAX), ROOM.refusals, "only what is durable can be acknowledged");
        ledger.grant(&[], 1).unwrap();
        assert_eq!(ledger.acknowledge(1), ROOM.refusals, "nothing comes back");
    }

    proptest! {
        /// Requests, commits of a part and crashes in any order: what was permitted is in the journal, and in no
        /// window is more permitted than its limit.
        #[test]
        fn a_crash_never_gives_quota_back(steps in prop::collection::vec((0_u8..4, 0_u64..3, 0_usize..3), 1..60)) {
            const LIMIT: u64 = 7;
            let room = Capacity { entries: 1000, refusals: 900, strangers: 800 };
            let mut durable = Durable::default();
            let mut ledger = Ledger::restart(room, durable.clone());
            let mut pending: Vec<(Write, u64)> = Vec::new();
            let mut signed = 0;
            for (step, cost, count) in steps {
                match step {
                    0 | 1 => {
                        if let Ok(write) = ledger.grant(&[charge("q", LIMIT, cost)], 100) {
                            pending.push((write, cost));
                        }
                    }
                    2 => {
                        for (write, cost) in pending.drain(..count.min(pending.len())) {
                            prop_assert_eq!(ledger.permit(&write), None);
                            durable.apply(&write);
                            ledger.durable(write.seq);
                            let permit = ledger.permit(&write).unwrap();
                            prop_assert!(permit.seq() <= durable.last);
                            signed += cost;
                        }
                    }
                    _ => {
                        pending.clear();
                        ledger = Ledger::restart(room, durable.clone());
                    }
                }
                prop_assert!(signed <= LIMIT);
                prop_assert!(durable.windows.get("q").map_or(0, |window| window.used) >= signed);
            }
        }
    }
}
