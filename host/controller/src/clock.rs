//! Time that never goes back and never leaps. Wherever the host compares or records a time, it takes it from here.
//! A run believes the system's clock once, at its start; from then on it believes only that time passes, by the
//! monotonic clock. Setting the system's clock back, in a run or between two, makes no token and no proof valid
//! again. Setting it forward ends no token early and dates no record into the future; but perhaps it was set right, so
//! until it agrees again, or the next run, the host lets itself be looked at and changed in nothing: [`Clock::ahead`].
//! Every step is told: [`Clock::jump`].

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
    /// The latest time that was told, since the Unix epoch.
    time: Duration,
    /// What was believed at the start, and when that was.
    start: (Duration, Instant),
    /// By how much the system's clock was off when it was last told, forward and back.
    told: (Duration, Duration),
}

impl Reached {
    fn new(believed: Duration, at: Instant) -> Self {
        Self { time: believed, start: (believed, at), told: Default::default() }
    }

    /// What time it should be at `at`.
    fn due(&self, at: Instant) -> Duration {
        self.start.0.saturating_add(at.saturating_duration_since(self.start.1))
    }

    /// What time it is at `at`, when the system says `wall`: that, if it is near what it should be.
    fn advance(&mut self, wall: Duration, at: Instant) -> Duration {
        let due = self.due(at);
        let near = if wall.abs_diff(due) <= BOUND { wall } else { due };
        self.time = self.time.max(near);
        self.time
    }

    /// How far the system's clock, which says `wall` at `at`, went since that was last told.
    fn jump(&mut self, wall: Duration, at: Instant) -> Option<Jump> {
        let due = self.due(at);
        let off = (wall.saturating_sub(due), due.saturating_sub(wall));
        let (forward, back) = (off.0 + self.told.1, off.1 + self.told.0);
        if forward.abs_diff(back) <= BOUND {
            return None;
        }
        self.told = off;
        Some(if forward > back { Jump::Forward(forward - back) } else { Jump::Back(back - forward) })
    }
}

impl Clock {
    /// A clock that follows `wall` (time since the Unix epoch) and starts at `floor` at the earliest.
    pub fn new(wall: fn() -> Duration, floor: Duration) -> Self {
        let reached = Reached::new(wall().max(floor), Instant::now());
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

    /// Whether the system's clock says that it is later than it can be. One of the two is wrong, and if it is ours, we
    /// take expired tokens for good.
    pub fn ahead(&self) -> bool {
        (self.wall)() > self.lock().due(Instant::now()).saturating_add(BOUND)
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
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_is_set_back_stops_no_time_and_revives_none() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached::new(noon, at);
        assert_eq!(clock.advance(noon, at), noon);
        assert_eq!(clock.advance(noon - HOUR, at + SECOND), noon + SECOND);
        assert_eq!(clock.advance(Duration::ZERO, at + HOUR), noon + HOUR);
        assert_eq!(clock.advance(noon + HOUR + SECOND, at + HOUR), noon + HOUR + SECOND);
    }

    #[test]
    fn a_clock_that_is_set_forward_is_not_followed_nor_one_that_goes_in_small_steps() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached::new(noon, at);
        assert_eq!(clock.advance(noon + HOUR, at + SECOND), noon + SECOND);
        assert_eq!(clock.advance(noon + SECOND * 2, at + SECOND * 2), noon + SECOND * 2);
        let steps = (1..=100).map(|n| clock.advance(noon + SECOND * n * 2, at + SECOND * 3));
        let furthest = steps.max().unwrap();
        assert!(furthest <= noon + SECOND * 3 + BOUND, "{furthest:?}");
    }

    #[test]
    fn a_step_is_told_once_in_either_direction_and_a_small_one_is_none() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached::new(noon, at);
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
    fn a_clock_is_ahead_until_it_agrees_again() {
        static WALL: AtomicU64 = AtomicU64::new(1000);
        let clock = Clock::new(|| Duration::from_secs(WALL.load(Relaxed)), Duration::ZERO);
        assert!(!clock.ahead());
        WALL.store(5000, Relaxed);
        assert!(clock.ahead() && clock.seconds() < 2000);
        WALL.store(1, Relaxed);
        assert!(!clock.ahead() && clock.seconds() >= 1000);
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
