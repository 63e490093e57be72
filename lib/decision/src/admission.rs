//! The life of one call on a host, without I/O: decide, record the intent, act, record the outcome, answer. A refusal
//! is recorded before it is told.
//!
//! A call that only observes does nothing but tell: its answer is found first and told to nobody, then intent and outcome
//! are recorded as one, then it is told. A crash in between leaves no record, and nobody who knows anything.
//!
//! [`Gate::admit`] decides and gives an [`Admission`] with the first [`Step`]. Its driver does the step, says with
//! [`Admission::next`] what came of it, and gets the next one, up to the [`Step::Answer`]. Calls go on side by side;
//! only [`Gate::admit`] wants one caller at a time.
//!
//! A crash loses every admission and the gate. What was acted on is in the log as an intent, so [`Gate::restart`] and
//! [`Gate::recount`] get the counts back from there: a crash gives no use of a token back.

use crate::{
    Call, Native, Reason, decide,
    kernel::{Times, clock},
};
use std::collections::BTreeMap;

/// Names a token.
pub type TokenId = [u8; 16];

/// A call that was checked, with the token that it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The token's id.
    pub token: TokenId,
    /// The facts. `charge.limit` is how many calls the token allows. The gate itself sees to the rest of the charge, to
    /// `recorded` and to the floor of the clock.
    pub call: Call<Native>,
    /// Whether it changes nothing: all that can come of it is its answer.
    pub observes: bool,
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record<R> {
    /// It will be done.
    Intent,
    /// It will not be done.
    Refusal(R),
    /// It was done, or tried and refused.
    Outcome(Result<(), R>),
    /// Intent and outcome of what only observes: both become durable, or neither counts.
    Observation(Result<(), R>),
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step<R> {
    /// Make the record durable; then say [`Event::Durable`] or [`Event::Unlogged`].
    Write(Record<R>),
    /// Act; then say [`Event::Acted`].
    Act,
    /// Find the answer, change nothing and tell nobody; then say [`Event::Acted`].
    Observe,
    /// Answer the caller. It is over.
    Answer(Answer<R>),
}

/// What the caller is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer<R> {
    /// It was done.
    Done,
    /// It was not done.
    Refused(R),
    /// A record could not be written. If it was that of the outcome, the call may have been done.
    Unlogged,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event<R> {
    /// The record is durable.
    Durable,
    /// The record could not be written.
    Unlogged,
    /// The act has ended.
    Acted(Result<(), R>),
}

impl<R> Event<R> {
    /// Whether the kernel grants a call whose record this came of.
    fn grants(&self, call: Call<Native>) -> bool {
        let recorded = matches!(self, Self::Durable);
        decide(&Native, &Call { recorded, ..call }).result().is_ok()
    }
}

impl<R> From<Result<(), R>> for Answer<R> {
    fn from(done: Result<(), R>) -> Self {
        done.map_or_else(Self::Refused, |()| Self::Done)
    }
}

/// One call under way. `R` says why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Admission<R>(State<R>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State<R> {
    /// Granted, if the intent becomes durable.
    Intending(Call<Native>),
    /// Refused; the record of it is under way.
    Refusing(R),
    Acting,
    /// The record of the outcome is under way.
    Reporting(Result<(), R>),
    /// Granted, if both records become durable; the answer is being found.
    Observing(Call<Native>),
    /// The answer was found; both records are under way.
    Telling(Call<Native>, Result<(), R>),
    Over,
}

impl<R: Clone + From<Reason>> Admission<R> {
    /// What to do after the last step. An event that does not belong to that step ends the call unanswered.
    pub fn next(self, event: Event<R>) -> (Self, Step<R>) {
        match (self.0, event) {
            (State::Intending(call), event) if event.grants(call) => (Self(State::Acting), Step::Act),
            (State::Refusing(why), Event::Durable) => Self::over(Answer::Refused(why)),
            (State::Acting, Event::Acted(done)) => {
                (Self(State::Reporting(done.clone())), Step::Write(Record::Outcome(done)))
            }
            (State::Reporting(done), Event::Durable) => Self::over(done.into()),
            (State::Observing(call), Event::Acted(done)) => {
                (Self(State::Telling(call, done.clone())), Step::Write(Record::Observation(done)))
            }
            (State::Telling(call, done), event) if event.grants(call) => Self::over(done.into()),
            _ => Self::over(Answer::Unlogged),
        }
    }

    fn refuse(why: R) -> (Self, Step<R>) {
        (Self(State::Refusing(why.clone())), Step::Write(Record::Refusal(why)))
    }

    fn over(answer: Answer<R>) -> (Self, Step<R>) {
        (Self(State::Over), Step::Answer(answer))
    }
}

/// Decides calls one after the other: keeps the clock from going back and counts the uses of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gate {
    /// The latest time seen, Unix seconds.
    floor: u64,
    /// Every use since this time is counted here.
    counted_since: u64,
    /// Most tokens that are counted at once.
    capacity: usize,
    /// How often each token was used, and until when that matters.
    uses: BTreeMap<TokenId, (u64, u64)>,
}

impl Gate {
    /// A gate after a start. `floor` is the time of the last record in the log; `counted_since` is later than every
    /// record that was let go of, 0 if none ever was; both Unix seconds. At most `capacity` tokens are counted at once:
    /// calls with more are refused as used up.
    pub fn restart(floor: u64, counted_since: u64, capacity: usize) -> Self {
        Self { floor, counted_since, capacity, uses: BTreeMap::new() }
    }

    /// Counts an intent that is in the log. `until` is a time at which the token has certainly expired.
    pub fn recount(&mut self, token: TokenId, until: u64) {
        let (used, ends) = self.uses.entry(token).or_insert((0, until));
        (*used, *ends) = (used.saturating_add(1), until.max(*ends));
    }

    /// Decides a call, or takes over why it was refused before it could be decided. A use that is granted here is used
    /// up, whatever becomes of the call.
    pub fn admit<R: Clone + From<Reason>>(&mut self, asked: Result<Asked, R>) -> (Admission<R>, Step<R>) {
        let Asked { token, mut call, observes } = match asked {
            Ok(asked) => asked,
            Err(why) => return Admission::refuse(why),
        };
        call.times.floor = call.times.floor.max(self.floor);
        self.floor = clock(&Native, &call.times);
        self.sweep();
        (call.charge.used, call.charge.cost) = (self.used(&token, &call), 1);
        match decide(&Native, &Call { recorded: true, ..call }).result() {
            Ok(used) => {
                self.uses.insert(token, (used, call.times.expires));
                if observes {
                    (Admission(State::Observing(call)), Step::Observe)
                } else {
                    (Admission(State::Intending(call)), Step::Write(Record::Intent))
                }
            }
            Err(why) => Admission::refuse(why.into()),
        }
    }

    /// How often a token was used; its limit if that is not known or cannot be kept.
    fn used(&self, token: &TokenId, call: &Call<Native>) -> u64 {
        // The log may still tell of some of its uses: not of all, so they do not count.
        let known = first_use(&call.times) >= self.counted_since;
        match self.uses.get(token) {
            Some((used, _)) if known => *used,
            None if known && self.uses.len() < self.capacity => 0,
            _ => call.charge.limit,
        }
    }

    /// Forgets tokens that have expired, when there is no room otherwise.
    fn sweep(&mut self) {
        if self.uses.len() >= self.capacity {
            let now = self.floor;
            self.uses.retain(|_, (_, until)| *until > now);
        }
    }
}

/// The earliest time at which a token can have been used here.
fn first_use(times: &Times<Native>) -> u64 {
    times.not_before.saturating_sub(times.skew)
}
