//! The real-time clock: an MC146818's time of day, always that of the host, in UTC. It cannot be set and has no
//! alarm; who wants another time keeps an offset, as guests do with a clock that is right.

use crate::bus::Device;
use rustix::time::{ClockId, clock_gettime};

/// Register B: 24 hours. Binary-coded decimal, because bit 2 is clear.
const HOURS_24: u8 = 0x02;
/// Register D: the battery is good.
const VALID: u8 = 0x80;
/// Register A: the 32.768 kHz time base, and nothing is being updated.
const TIME_BASE: u8 = 0x26;

/// The clock at ports 0x70 and 0x71.
pub struct Rtc {
    index: u8,
    now: fn() -> u64,
}

fn host_seconds() -> u64 {
    // The coarse clock takes no system call, on no host.
    u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or_default()
}

impl Rtc {
    /// The clock of this host, with a register chosen.
    pub fn new(index: u8) -> Self {
        Self { index, now: host_seconds }
    }

    /// The register that the data port shows.
    pub const fn index(&self) -> u8 {
        self.index
    }

    fn register(&self) -> u8 {
        let seconds = (self.now)();
        let (days, second) = (seconds / 86400, seconds % 86400);
        let (year, month, day) = date(days);
        let value = match self.index & 0x7F {
            0x00 => second % 60,
            0x02 => second / 60 % 60,
            0x04 => second / 3600,
            // 1 January 1970 was a Thursday; Sunday is 1.
            0x06 => (days + 4) % 7 + 1,
            0x07 => day,
            0x08 => month,
            0x09 => year % 100,
            0x32 => year / 100 % 100,
            0x0A => return TIME_BASE,
            0x0B => return HOURS_24,
            0x0D => return VALID,
            _ => return 0,
        };
        u8::try_from(value / 10 * 16 + value % 10).unwrap_or_default()
    }
}

/// Year, month and day of a day since 1970 (Gregorian, in years that begin in March).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (era * 400 + year, day - (153 * month + 2) / 5 + 1);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let (1, [byte]) = (offset, data) {
            *byte = self.register();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, [index, ..]) = (offset, data) {
            self.index = *index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(rtc: &mut Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut byte = [0];
        rtc.read(1, &mut byte);
        byte[0]
    }

    #[test]
    fn tells_the_time() {
        // 29 February 2024, 23:58:59, a Thursday.
        let mut rtc = Rtc { index: 0, now: || 1_709_251_139 };
        let read = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(&mut rtc, index));
        assert_eq!(read, [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x58, 0x59]);
    }

    #[test]
    fn cannot_be_set_and_says_that_it_is_good() {
        let mut rtc = Rtc::new(0);
        rtc.write(0, &[0x0D]);
        rtc.write(1, &[0]);
        assert_eq!(read(&mut rtc, 0x0D), VALID);
        let mut wide = [0; 2];
        rtc.read(0, &mut wide);
        assert_eq!(wide, [0xFF; 2]);
    }

    proptest! {
        #[test]
        fn days_follow_each_other(day in 0..1_000_000u64) {
            let ((year, month, today), next) = (date(day), date(day + 1));
            prop_assert!(
                next == (year, month, today + 1)
                    || (today >= 28 && next == (year, month + 1, 1))
                    || ((month, today) == (12, 31) && next == (year + 1, 1, 1))
            );
        }
    }
}
