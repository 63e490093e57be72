//! The clock, in the two units that are used.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of Unix time; 0 before 1970.
pub(crate) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds of Unix time.
pub(crate) fn seconds() -> u64 {
    milliseconds() / 1000
}
