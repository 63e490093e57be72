use crate::{Code, Refusal};
use serde::{Deserialize, Serialize};

/// How far a TPM's clock may fall back when it loses power, in milliseconds: it must be stored at least so often
/// (TPM 2.0 Library, part 1, §36.3).
const MOST_LOST: u64 = 1 << 22;

/// The counters of a TPM at one moment. They only grow for as long as the TPM is the same: part 1, §36.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Resets since the TPM was last cleared.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Powered time since the TPM was last cleared, in milliseconds.
    pub clock: u64,
}

impl Counters {
    /// Refuses counters that are behind those `seen` earlier: two TPMs have one state, or an old state came back.
    pub fn follow(self, seen: Self) -> Result<(), Refusal> {
        let boot = |counters: Self| (counters.reset_count, counters.restart_count);
        let behind = boot(self) < boot(seen)
            || (boot(self) == boot(seen) && self.clock < seen.clock)
            || self.clock.saturating_add(MOST_LOST) < seen.clock;
        if behind { Err(Code::Clock.into()) } else { Ok(()) }
    }

    /// The later of both.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        let order = |counters: &Self| (counters.reset_count, counters.restart_count, counters.clock);
        if order(&self) >= order(&other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(reset_count: u32, restart_count: u32, clock: u64) -> Counters {
        Counters { reset_count, restart_count, clock }
    }

    #[test]
    fn two_tpms_of_one_state_are_told_apart_whoever_asks_first() {
        let (original, clone) = (at(7, 0, 90_000), at(7, 0, 30_000));
        clone.follow(original).unwrap_err();
        original.follow(clone).unwrap();
        at(7, 0, 31_000).follow(original.later(clone)).unwrap_err();
    }

    #[test]
    fn a_state_that_was_put_back_is_behind() {
        let seen = at(7, 2, 10 * MOST_LOST);
        for behind in [at(6, 9, u64::MAX), at(7, 1, u64::MAX), at(7, 2, seen.clock - 1), at(9, 0, 1)] {
            assert_eq!(behind.follow(seen).unwrap_err().code, Code::Clock, "{behind:?}");
        }
        for after in [seen, at(7, 3, seen.clock), at(8, 0, seen.clock - MOST_LOST)] {
            after.follow(seen).unwrap();
        }
    }
}
