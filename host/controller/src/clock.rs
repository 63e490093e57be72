//! Time that never goes back. Wherever the host compares or records a time, it takes it from here: setting
//! the system's clock back, in a run or between two, makes no token and no proof valid again. Setting it
//! forward ends tokens early, for as long as the system's clock is behind the time that was reached. Either is
//! told: [`Clock::jump`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// So much the system's clock may part from the monotonic one: more than a leap second. Both follow the same
/// corrections by NTP, so between them there are steps only.
const BOUND: Duration = Duration::from_secs(2);

/// A step of the system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// Time was left out: the clock was set, or the machine slept.
    Forward(Duration),
    /// Time comes again.
    Back(Duration),
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, by) = match self {
            Self::Forward(by) => ("forward", by),
            Self::Back(by) => ("back", by),
        };
        write!(f, "the system's clock went {way} by {:.3} s", by.as_secs_f64())
    }
}

/// The host's clock. Its clones share the time that was reached.
#[derive(Debug, Clone)]
pub struct Clock {
    wall: fn() -> Duration,
    reached: Arc<Mutex<Reached>>,
}

#[derive(Debug)]
struct Reached {
    /// Since the Unix epoch.
    time: Duration,
    at: Instant,
    /// What the system's clock said at a moment, and was believed.
    believed: (Duration, Instant),
}

impl Reached {
    /// What time it is at `at`, when the system says `wall`: at least as much later as really passed.
    fn advance(&mut self, wall: Duration, at: Instant) -> Duration {
        let passed = at.saturating_duration_since(self.at);
        self.time = self.time.saturating_add(passed).max(wall);
        self.at = at;
        self.time
    }

    /// How far the system's clock, which says `wall` at `at`, is from where it should be. It is believed from
    /// then on.
    fn jump(&mut self, wall: Duration, at: Instant) -> Option<Jump> {
        let (then, moment) = self.believed;
        let due = then.saturating_add(at.saturating_duration_since(moment));
        let jump = if wall >= due { Jump::Forward(wall - due) } else { Jump::Back(due - wall) };
        let (Jump::Forward(by) | Jump::Back(by)) = jump;
        if by <= BOUND {
            return None;
        }
        self.believed = (wall, at);
        Some(jump)
    }
}

impl Clock {
    /// A clock that follows `wall` (time since the Unix epoch) and starts at `floor` at the earliest.
    pub fn new(wall: fn() -> Duration, floor: Duration) -> Self {
        let at = Instant::now();
        let reached = Reached { time: floor, at, believed: (wall().max(floor), at) };
        Self { wall, reached: Arc::new(Mutex::new(reached)) }
    }

    /// A clock that follows the system's.
    pub fn system(floor: Duration) -> Self {
        let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Some(behind) = floor.checked_sub(wall()).filter(|behind| behind.as_secs() > 0) {
            let seconds = behind.as_secs();
            tracing::warn!(seconds, "the system's clock is behind the host's log: set it right");
        }
        Self::new(wall, floor)
    }

    /// Time since the Unix epoch.
    pub fn now(&self) -> Duration {
        self.lock().advance((self.wall)(), Instant::now())
    }

    /// How far the system's clock jumped since it was last asked, if by more than 2 s; at first, since the floor
    /// if that is later.
    pub fn jump(&self) -> Option<Jump> {
        self.lock().jump((self.wall)(), Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole seconds since the Unix epoch.
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_is_set_back_stops_no_time_and_revives_none() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached { time: Duration::ZERO, at, believed: (Duration::ZERO, at) };
        assert_eq!(clock.advance(noon, at), noon);
        assert_eq!(clock.advance(noon - HOUR, at + SECOND), noon + SECOND);
        assert_eq!(clock.advance(Duration::ZERO, at + HOUR), noon + HOUR);
        assert_eq!(clock.advance(noon + HOUR + SECOND, at + HOUR), noon + HOUR + SECOND);
    }

    #[test]
    fn a_clock_that_is_set_forward_is_followed_and_not_back_again() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached { time: noon, at, believed: (noon, at) };
        assert_eq!(clock.advance(noon + HOUR, at + SECOND), noon + HOUR);
        assert_eq!(clock.advance(noon + SECOND * 2, at + SECOND * 2), noon + HOUR + SECOND);
    }

    #[test]
    fn a_step_is_told_once_in_either_direction_and_a_small_one_is_none() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached { time: noon, at, believed: (noon, at) };
        assert_eq!(clock.jump(noon + HOUR, at + HOUR), None);
        assert_eq!(clock.jump(noon + HOUR + BOUND, at + HOUR), None);
        assert_eq!(clock.jump(noon + HOUR * 2, at + HOUR), Some(Jump::Forward(HOUR)));
        assert_eq!(clock.jump(noon + HOUR * 2 + SECOND, at + HOUR + SECOND), None);
        assert_eq!(clock.jump(noon, at + HOUR + SECOND), Some(Jump::Back(HOUR * 2 + SECOND)));
        assert_eq!(clock.jump(noon + SECOND, at + HOUR + SECOND * 2), None);
        // Many steps that are small one by one are one together.
        let small = (1..=4).map(|n| clock.jump(noon + SECOND * n * 2, at + HOUR + SECOND * (n + 1)));
        assert_eq!(small.flatten().collect::<Vec<_>>(), [Jump::Forward(SECOND * 3)]);
    }

    #[test]
    fn a_system_clock_behind_the_floor_has_jumped_back() {
        let clock = Clock::new(|| HOUR, HOUR * 2);
        assert!(matches!(clock.jump(), Some(Jump::Back(by)) if by >= HOUR));
        assert_eq!(clock.jump(), None);
        assert_eq!(Jump::Back(HOUR).to_string(), "the system's clock went back by 3600.000 s");
    }

    #[test]
    fn it_starts_at_its_floor_and_its_clones_agree() {
        let clock = Clock::new(|| HOUR, HOUR * 2);
        let now = clock.clone().now();
        assert!(now >= HOUR * 2 && clock.now() >= now);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(Clock::system(Duration::ZERO).now() >= now);
        assert!(Clock::system(now + HOUR).now() >= now + HOUR);
    }
}
