//! Time that never goes back. Wherever the host compares or records a time, it takes it from here: setting
//! the system's clock back, in a run or between two, makes no token and no proof valid again. Setting it
//! forward ends tokens early, for as long as the system's clock is behind the time that was reached.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

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
}

impl Reached {
    /// What time it is at `at`, when the system says `wall`: at least as much later as really passed.
    fn advance(&mut self, wall: Duration, at: Instant) -> Duration {
        let passed = at.saturating_duration_since(self.at);
        *self = Self { time: self.time.saturating_add(passed).max(wall), at };
        self.time
    }
}

impl Clock {
    /// A clock that follows `wall` (time since the Unix epoch) and starts at `floor` at the earliest.
    pub fn new(wall: fn() -> Duration, floor: Duration) -> Self {
        Self { wall, reached: Arc::new(Mutex::new(Reached { time: floor, at: Instant::now() })) }
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
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.advance((self.wall)(), Instant::now())
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
        let mut clock = Reached { time: Duration::ZERO, at };
        assert_eq!(clock.advance(noon, at), noon);
        assert_eq!(clock.advance(noon - HOUR, at + SECOND), noon + SECOND);
        assert_eq!(clock.advance(Duration::ZERO, at + HOUR), noon + HOUR);
        assert_eq!(clock.advance(noon + HOUR + SECOND, at + HOUR), noon + HOUR + SECOND);
    }

    #[test]
    fn a_clock_that_is_set_forward_is_followed_and_not_back_again() {
        let (noon, at) = (HOUR * 12, Instant::now());
        let mut clock = Reached { time: noon, at };
        assert_eq!(clock.advance(noon + HOUR, at + SECOND), noon + HOUR);
        assert_eq!(clock.advance(noon + SECOND * 2, at + SECOND * 2), noon + HOUR + SECOND);
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
