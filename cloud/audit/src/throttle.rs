//! Which refusals the log takes one by one. Whoever holds a certificate could else fill the disk with them, or hide
//! among them: each peer has a bucket for each code, and what does not fit is counted and told in one entry.

use crate::entry::Observed;
use host_api::{Code, Sentence};
use ids::Identity;
use std::collections::BTreeMap;

/// Refusals in a row that are listed one by one,
pub const BURST: u32 = 32;
/// and how long one more takes to earn, in milliseconds.
pub const EARN: u64 = 60_000;
/// Most peers and codes that are told apart; those beyond share a bucket for each code.
pub const PLACES: usize = 1024;

/// A peer, if it showed who it is, and what it was refused with. Codes are those that this program has.
type Key = (Option<Identity>, Option<String>);

struct Bucket {
    room: u32,
    /// Since when the next one is being earned, in milliseconds of Unix time.
    since: u64,
    left_out: u64,
    /// What the entry that tells of them says besides their number.
    like: Observed,
}

/// The buckets.
#[derive(Default)]
pub struct Throttle {
    buckets: BTreeMap<Key, Bucket>,
}

impl Bucket {
    fn earn(&mut self, now: u64) {
        let earned = now.saturating_sub(self.since) / EARN;
        self.room = self.room.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(BURST);
        self.since = if self.room == BURST { now } else { self.since + earned * EARN };
    }

    fn tell(&mut self) -> Option<Observed> {
        let left_out = std::mem::take(&mut self.left_out);
        let detail = Sentence::from_lossy(&format!("{left_out} more are not listed one by one"));
        (left_out > 0).then(|| Observed { detail: Some(detail), ..self.like.clone() })
    }
}

impl Throttle {
    /// A refusal at `now`, in milliseconds of Unix time: itself if it is to be listed.
    pub fn pass(&mut self, now: u64, refused: Observed) -> Option<Observed> {
        let code = refused.code.as_ref().map(Code::to_string);
        let mut key = (refused.subject.clone(), code);
        if self.buckets.len() >= PLACES && !self.buckets.contains_key(&key) {
            key.0 = None;
        }
        let like = || Observed { subject: key.0.clone(), detail: None, ..refused.clone() };
        let new = || Bucket { room: BURST, since: now, left_out: 0, like: like() };
        let bucket = self.buckets.entry(key.clone()).or_insert_with(new);
        bucket.earn(now);
        if bucket.room > 0 && bucket.left_out == 0 {
            bucket.room -= 1;
            return Some(refused);
        }
        bucket.left_out += 1;
        None
    }

    /// What is to be told of those that were left out, where there is room for it again.
    pub fn due(&mut self, now: u64) -> Vec<Observed> {
        let mut due = Vec::new();
        self.buckets.retain(|_, bucket| {
            bucket.earn(now);
            if bucket.room > 0
                && let Some(told) = bucket.tell()
            {
                bucket.room -= 1;
                due.push(told);
            }
            bucket.room < BURST
        });
        due
    }

    /// The rest, told because the service stops.
    pub fn rest(&mut self) -> Vec<Observed> {
        self.buckets.values_mut().filter_map(Bucket::tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn refused(who: &str, code: &str) -> Observed {
        Observed::read(&format!("azote:operator/{who}").parse().unwrap(), "status", Some(code))
    }

    fn number(told: &Observed) -> u64 {
        told.detail.as_ref().unwrap().as_str().split(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_flood_costs_few_entries_and_no_number_is_lost() {
        let (mut throttle, mut listed, mut told) = (Throttle::default(), 0, Vec::new());
        let (flood, hour) = (360_000, 3_600_000);
        for n in 0..flood {
            let now = NOW + n * 10;
            listed += u64::from(throttle.pass(now, refused("alice", "rights.api")).is_some());
            if n % 50 == 0 {
                told.extend(throttle.due(now));
            }
        }
        assert!(throttle.pass(NOW + hour, refused("bob", "rights.api")).is_some(), "others are heard");
        assert!(
            throttle.pass(NOW + hour, refused("alice", "attempts.caller")).is_some(),
            "so is what is new"
        );
        told.extend(throttle.rest());
        assert!(throttle.rest().is_empty());
        assert_eq!(listed + told.iter().map(number).sum::<u64>(), flood);
        assert!(
            listed + (told.len() as u64) <= u64::from(BURST) + hour / EARN + 1,
            "{listed} {}",
            told.len()
        );
        let like = refused("alice", "rights.api");
        assert!(
            told.iter()
                .all(|one| (one.kind, &one.code, &one.subject) == (like.kind, &like.code, &like.subject))
        );
    }

    #[test]
    fn who_was_quiet_is_listed_again_and_takes_no_place() {
        let mut throttle = Throttle::default();
        for n in 0..100 {
            assert!(throttle.pass(NOW + n * EARN, refused("alice", "rights.api")).is_some(), "{n}");
            assert!(throttle.due(NOW + n * EARN).is_empty());
        }
        assert!(throttle.due(NOW + 101 * EARN).is_empty());
        assert!(throttle.buckets.is_empty());
    }

    #[test]
    fn many_names_share_a_place_and_are_counted() {
        let (mut throttle, mut listed) = (Throttle::default(), 0);
        let names = 3 * PLACES as u64;
        for n in 0..names {
            listed += u64::from(throttle.pass(NOW, refused(&format!("o-{n}"), "rights.subject")).is_some());
        }
        assert!(throttle.buckets.len() <= PLACES + 1, "one more for the code");
        let told = throttle.rest();
        assert_eq!(listed + told.iter().map(number).sum::<u64>(), names);
        assert_eq!((told.len(), &told[0].subject), (1, &None));
    }
}
