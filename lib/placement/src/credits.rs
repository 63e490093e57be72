//! CPU credits as EC2 counts them (EC2 User Guide, "Burstable performance instances").
//!
//! One credit is one vCPU at full use for one minute. An instance earns its baseline all the time, up to what
//! 24 hours give; what it earns beyond that is lost. Launch credits come on top of the limit and are spent first.
//! An unlimited instance that has none left spends surplus credits, which later earnings pay down; what exceeds
//! 24 hours of earnings, or is left at the stop or when it becomes standard, is charged.

use crate::PlacementError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The baseline is given in ten-thousandths, so a grain, the unit of every balance here, is a ten-thousandth of a
/// vCPU microsecond: sums are exact.
const GRAINS_PER_MICRO: u64 = 10_000;
const GRAINS_PER_CREDIT: u64 = 60_000_000 * GRAINS_PER_MICRO;
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;
const MAX_VCPUS: u32 = 256;

/// What a burstable type promises.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Burstable {
    /// vCPUs, 1 to 256.
    pub vcpus: u32,
    /// Baseline of each vCPU in ten-thousandths of full use, 1 to 10000: t3.micro has 1000.
    pub baseline: u32,
    /// Credits for each vCPU at every start in standard mode: 30 for the second generation, else none.
    pub launch: u32,
    /// How long earned credits outlast a stop: nothing for the second generation, seven days after it.
    pub kept: Duration,
}

impl Burstable {
    /// A type as of the third generation.
    pub const fn third(vcpus: u32, baseline: u32) -> Self {
        Self { vcpus, baseline, launch: 0, kept: Duration::from_secs(7 * 24 * 3600) }
    }

    /// A type of the second generation.
    pub const fn second(vcpus: u32, baseline: u32) -> Self {
        Self { vcpus, baseline, launch: 30, kept: Duration::ZERO }
    }

    pub(crate) fn check(&self) -> Result<(), PlacementError> {
        let right = (1..=MAX_VCPUS).contains(&self.vcpus)
            && (1..=10_000).contains(&self.baseline)
            && self.launch <= 1_000;
        if right { Ok(()) } else { Err(PlacementError::Type) }
    }

    /// Grains for each microsecond.
    fn rate(&self) -> u64 {
        u64::from(self.vcpus) * u64::from(self.baseline)
    }

    fn limit(&self) -> u64 {
        self.rate() * DAY_MICROS
    }

    /// Thousandths of a credit that it earns in an hour.
    pub fn hourly(&self) -> u64 {
        self.limit() / 24 / (GRAINS_PER_CREDIT / 1000)
    }

    /// Thousandths of a credit that it can accrue; launch credits do not count.
    pub fn maximum(&self) -> u64 {
        self.limit() / (GRAINS_PER_CREDIT / 1000)
    }
}

/// What happens when no credits are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It runs at its baseline.
    Standard,
    /// It goes on, and pays.
    Unlimited,
}

/// Earned credits that an instance had when it stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Carried {
    /// Thousandths of a credit.
    pub balance: u64,
    /// How long ago it stopped.
    pub stopped_for: Duration,
}

/// The account of one running instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credits {
    kind: Burstable,
    mode: Mode,
    launch: u64,
    earned: u64,
    /// Spent before it was earned. In standard mode only what a late pause used too much; it is never charged.
    surplus: u64,
    charged: u64,
    /// Until when it has earned, in microseconds.
    until: u64,
}

impl Credits {
    pub(crate) fn new(kind: Burstable, mode: Mode, carried: Option<&Carried>, now: u64) -> Self {
        let earned = match carried {
            Some(carried) if carried.stopped_for <= kind.kept => {
                carried.balance.saturating_mul(GRAINS_PER_CREDIT / 1000).min(kind.limit())
            }
            _ => 0,
        };
        let launch = match mode {
            Mode::Standard => u64::from(kind.launch) * u64::from(kind.vcpus) * GRAINS_PER_CREDIT,
            Mode::Unlimited => 0,
        };
        Self { launch, earned, surplus: 0, charged: 0, until: now, kind, mode }
    }

    /// Thousandths of a credit that it can spend (`CPUCreditBalance`).
    pub fn balance(&self) -> u64 {
        (self.launch + self.earned) / (GRAINS_PER_CREDIT / 1000)
    }

    /// Thousandths of a credit that were spent before they were earned (`CPUSurplusCreditBalance`).
    pub fn surplus(&self) -> u64 {
        self.surplus / (GRAINS_PER_CREDIT / 1000)
    }

    /// Thousandths of a credit that are to be paid for (`CPUSurplusCreditsCharged`).
    pub fn charged(&self) -> u64 {
        self.charged / (GRAINS_PER_CREDIT / 1000)
    }

    /// The present mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn kind(&self) -> &Burstable {
        &self.kind
    }

    /// Earns for the time up to `now`. A clock that went back earns nothing.
    pub(crate) fn earn(&mut self, now: u64) {
        let gain = now.saturating_sub(self.until).saturating_mul(self.kind.rate());
        self.until = self.until.max(now);
        let paid = gain.min(self.surplus);
        self.surplus -= paid;
        self.earned = self.earned.saturating_add(gain - paid).min(self.kind.limit());
    }

    /// Spends vCPU microseconds.
    pub(crate) fn spend(&mut self, used: u64) {
        let mut cost = used.saturating_mul(GRAINS_PER_MICRO);
        for purse in [&mut self.launch, &mut self.earned] {
            let part = cost.min(*purse);
            *purse -= part;
            cost -= part;
        }
        let surplus = self.surplus.saturating_add(cost);
        self.surplus = surplus.min(self.kind.limit());
        if self.mode == Mode::Unlimited {
            self.charged = self.charged.saturating_add(surplus - self.surplus);
        }
    }

    /// Microseconds for which all its vCPUs can run now; nothing bounds an unlimited instance.
    pub(crate) fn affords(&self) -> Option<u64> {
        let own = self.launch + self.earned;
        (self.mode == Mode::Standard).then(|| own / GRAINS_PER_MICRO / u64::from(self.kind.vcpus))
    }

    /// Microseconds until it can afford `micros` of all its vCPUs.
    pub(crate) fn wait(&self, micros: u64) -> u64 {
        let need = micros * u64::from(self.kind.vcpus) * GRAINS_PER_MICRO + self.surplus;
        match self.mode {
            Mode::Standard => need.saturating_sub(self.launch + self.earned).div_ceil(self.kind.rate()),
            Mode::Unlimited => 0,
        }
    }

    /// Another mode. Surplus is charged, or launch credits are lost.
    pub(crate) fn switch(&mut self, mode: Mode) {
        if self.mode != mode {
            self.settle();
            self.launch = 0;
            self.mode = mode;
        }
    }

    /// The end: what is owed is charged.
    pub(crate) fn settle(&mut self) {
        let owed = std::mem::take(&mut self.surplus);
        if self.mode == Mode::Unlimited {
            self.charged = self.charged.saturating_add(owed);
        }
        // What the next start may carry over are earned credits alone.
        self.launch = 0;
    }

    /// What must hold at any time.
    #[cfg(test)]
    pub(crate) fn in_bounds(&self) {
        assert!(self.earned <= self.kind.limit() && self.surplus <= self.kind.limit());
        assert!(self.launch <= u64::from(self.kind.launch * self.kind.vcpus) * GRAINS_PER_CREDIT);
        assert!(self.surplus == 0 || self.launch + self.earned == 0, "owes what it could pay");
    }
}
