//! What may be used up in a window of time.

use crate::{
    Domain, Native,
    kernel::{Charge, fits},
};

/// One quota: at most `limit` in each window of `length` seconds. A window begins with the first use after the one
/// before has ended, so windows begin at least `length` apart, and no stretch of `length` seconds sees more than
/// twice the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// When it began, Unix seconds.
    pub start: u64,
    /// How long it is, seconds. One of no length never ends.
    pub length: u64,
    /// Used up in it.
    pub used: u64,
    /// The most that may be used up in it.
    pub limit: u64,
}

/// The quota does not hold so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spent {
    /// What is left now.
    pub left: u64,
    /// From when on it will, Unix seconds; [`u64::MAX`] for never.
    pub until: u64,
}

impl Window {
    /// A fresh window that begins `now`.
    pub fn new(now: u64, length: u64, limit: u64) -> Self {
        Self { start: now, length, used: 0, limit }
    }

    /// Takes `cost` from it. A clock that went back before its start begins no new window. A refusal changes nothing.
    pub fn take(self, now: u64, cost: u64) -> Result<Self, Spent> {
        let turned = turn(&Native, now, &Frame { start: self.start, length: self.length, used: self.used });
        let charge = Charge { used: turned.used, cost, limit: self.limit };
        let (taken, used) = charged(&Native, &charge);
        if taken {
            return Ok(Self { start: turned.start, used, ..self });
        }
        let never = self.length == 0 || cost > self.limit;
        let until = if never { u64::MAX } else { turned.start.saturating_add(self.length) };
        Err(Spent { left: self.limit.saturating_sub(turned.used), until })
    }

    /// What is left of it `now`.
    pub fn left(&self, now: u64) -> u64 {
        let turned = turn(&Native, now, &Frame { start: self.start, length: self.length, used: self.used });
        self.limit.saturating_sub(turned.used)
    }
}

/// The part of a window that time changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame<D: Domain> {
    /// When it began.
    pub start: D::N,
    /// How long it is.
    pub length: D::N,
    /// Used up in it.
    pub used: D::N,
}

/// The window that `now` lies in: this one, or an empty one that begins now.
pub fn turn<D: Domain>(d: &D, now: D::N, frame: &Frame<D>) -> Frame<D> {
    let none = d.number(0);
    // Where it is asked for, `now` is not before `start`, so the difference does not wrap.
    let passed = d.and(d.at_most(frame.start, now), d.at_most(frame.length, d.sub(now, frame.start)));
    let ended = d.and(d.below(none, frame.length), passed);
    Frame { start: d.choose(ended, now, frame.start), used: d.choose(ended, none, frame.used), ..*frame }
}

/// Whether a charge fits, and what is used up then.
pub fn charged<D: Domain>(d: &D, charge: &Charge<D>) -> (D::B, D::N) {
    let fits = fits(d, charge);
    (fits, d.choose(fits, d.add(charge.used, charge.cost), charge.used))
}
