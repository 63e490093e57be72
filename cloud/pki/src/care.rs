//! When a holder of a certificate is looked at, and when it is offered the next one. No I/O and no clock: who takes care
//! asks [`Care::act`] what to do now, does it, and says how it went.

/// How often, and how early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    life: u64,
    pause: u64,
}

impl Terms {
    /// For certificates that live `life` seconds: looked at every `every` seconds, and at least eight times in a life.
    pub fn new(life: u64, every: u64) -> Self {
        Self { life, pause: every.min(life / 8).max(1) }
    }

    /// The longest time from one look to the next, in seconds.
    pub fn pause(&self) -> u64 {
        self.pause
    }

    /// Whether less than half of a life is left of what ends then.
    pub fn is_half_gone(&self, ends: u64, now: u64) -> bool {
        ends.saturating_sub(now) < self.life / 2
    }

    /// The pause after so many failures in a row.
    fn after(&self, failures: u32) -> u64 {
        let first = (self.pause / 8).max(1);
        first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.pause)
    }
}

/// What was found when a holder was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is what it should be.
    Good,
    /// It is not.
    Bad,
    /// It could not be asked.
    Silent,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing before this moment.
    Rest(u64),
    /// Ask it what it is, and until when its certificate lives: then [`Care::found`].
    Look,
    /// Offer it the next certificate: then [`Care::offered`].
    Offer,
}

/// What is remembered of one holder.
#[derive(Debug, Clone, Default)]
pub struct Care {
    due: u64,
    failures: u32,
    /// It was found good then, and half of its certificate's life is gone.
    wants: Option<u64>,
}

impl Care {
    /// What to do at `now`, in Unix seconds.
    pub fn act(&self, now: u64, terms: &Terms) -> Act {
        match self.wants {
            _ if now < self.due => Act::Rest(self.due),
            // What was seen too long ago counts for nothing.
            Some(at) if now <= at.saturating_add(terms.pause) => Act::Offer,
            _ => Act::Look,
        }
    }

    /// It was looked at; `ends` is the last second of its certificate, as far as that is known.
    pub fn found(&mut self, now: u64, terms: &Terms, found: Found, ends: Option<u64>) {
        self.wants = None;
        match found {
            Found::Good if ends.is_none_or(|ends| terms.is_half_gone(ends, now)) => {
                (self.wants, self.due) = (Some(now), now);
            }
            Found::Good => self.rest(now, terms),
            Found::Bad => self.due = now.saturating_add(terms.pause),
            Found::Silent => self.failed(now, terms),
        }
    }

    /// It took what it was offered, or did not.
    pub fn offered(&mut self, now: u64, terms: &Terms, taken: bool) {
        self.wants = None;
        if taken { self.rest(now, terms) } else { self.failed(now, terms) }
    }

    fn rest(&mut self, now: u64, terms: &Terms) {
        (self.failures, self.due) = (0, now.saturating_add(terms.pause));
    }

    /// Something else went wrong with it: it is looked at again soon, and less soon each time.
    pub fn failed(&mut self, now: u64, terms: &Terms) {
        self.wants = None;
        self.failures = self.failures.saturating_add(1);
        self.due = now.saturating_add(terms.after(self.failures));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How late whoever takes care may be, and how long each act takes.
    const LATE: u64 = 3;

    /// A holder: what it is changes with time.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Weather {
        lasts: u64,
        answers: bool,
        good: bool,
    }

    fn weather() -> impl Strategy<Value = Weather> {
        let holds = prop_oneof![3 => Just(true), 1 => Just(false)];
        (1..400_u64, holds.clone(), holds).prop_map(|(lasts, answers, good)| Weather { lasts, answers, good })
    }

    fn at(weather: &[Weather], now: u64) -> Weather {
        let mut ends = 0;
        let found = weather.iter().find(|it| {
            ends += it.lasts;
            now < ends
        });
        *found.unwrap_or(&Weather { lasts: 1, answers: true, good: true })
    }

    proptest! {
        #[test]
        fn who_answers_and_is_good_never_shows_an_expired_certificate_and_who_is_bad_is_offered_none(
            weather in prop::collection::vec(weather(), 0..40),
            late in prop::collection::vec(0..=LATE, 1..50),
            life in 80..1000_u64,
            every in 1..2000_u64,
        ) {
            let terms = Terms::new(life, every);
            let (mut care, mut ends, mut now) = (Care::default(), life, 0);
            // Since when it answers and is good without a break.
            let (mut good_since, mut seen) = (None, None);
            let mut late = late.iter().cycle();
            let until = weather.iter().map(|it| it.lasts).sum::<u64>() + 3 * life;
            // A second at a time, so that no weather is missed.
            let mut wakes = 0;
            while now < until {
                let is = at(&weather, now);
                let fine = is.answers && is.good;
                good_since = if fine { good_since.or(Some(now)) } else { None };
                if now >= wakes {
                    match care.act(now, &terms) {
                        Act::Rest(due) => {
                            prop_assert!(due > now && due <= now + terms.pause());
                            wakes = due + late.next().unwrap();
                        }
                        Act::Look => {
                            let found = match (is.answers, is.good) {
                                (false, _) => Found::Silent,
                                (true, true) => Found::Good,
                                (true, false) => Found::Bad,
                            };
                            seen = Some(found);
                            care.found(now, &terms, found, is.answers.then_some(ends));
                        }
                        Act::Offer => {
                            prop_assert_eq!(seen, Some(Found::Good), "offered what is not known to be good");
                            care.offered(now, &terms, is.answers);
                            ends = if is.answers { now + life } else { ends };
                        }
                    }
                }
                // A whole pause in which it could be reached is enough, wherever in the second half of the life.
                let window = terms.pause() + LATE + 4;
                if good_since.is_some_and(|since| since.max(ends.saturating_sub(life / 2)) + window < now) {
                    prop_assert!(now <= ends, "at {now} it shows one that ended at {ends}");
                }
                now += 1;
            }
            prop_assert!(now <= ends, "three lives of fair weather renewed nothing");
        }
    }

    #[test]
    fn failures_back_off_and_never_beyond_the_pause() {
        let terms = Terms::new(86_400, 900);
        assert_eq!(terms.pause(), 900);
        let (mut care, mut pauses) = (Care::default(), Vec::new());
        for _ in 0..6 {
            care.failed(0, &terms);
            let Act::Rest(due) = care.act(0, &terms) else { panic!("no rest") };
            pauses.push(due);
        }
        assert_eq!(pauses, [112, 224, 448, 896, 900, 900]);
        care.found(1000, &terms, Found::Good, Some(1000 + 86_400));
        assert_eq!(care.act(1000, &terms), Act::Rest(1900));
    }

    #[test]
    fn what_was_seen_long_ago_is_no_reason_to_offer() {
        let terms = Terms::new(800, 100);
        let mut care = Care::default();
        assert_eq!(care.act(5, &terms), Act::Look);
        care.found(5, &terms, Found::Good, Some(300));
        assert_eq!(care.act(105, &terms), Act::Offer);
        assert_eq!(care.act(106, &terms), Act::Look);
        care.found(106, &terms, Found::Bad, Some(300));
        assert_eq!(care.act(206, &terms), Act::Look);
    }
}
