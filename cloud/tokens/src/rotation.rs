//! Which keys sign and which are trusted, over time. A state machine without I/O.
//!
//! A rotation has three steps. The next key is announced beside the present one, in a set that the present key signs.
//! After an overlap, in which every host must hear of it, it signs. When the last token of the old key has ended,
//! a set with the new key alone follows.

use serde::{Deserialize, Serialize};
use token::{KeySet, Keys, PublicKey};

/// The keys of a token service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Number of the present set; hosts take only higher ones. The first set has number 0.
    pub sequence: u64,
    /// Signs tokens.
    pub present: PublicKey,
    /// Since when, Unix seconds.
    pub since: u64,
    /// The key before or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Other>,
}

/// The second key of a rotation, with the time of the next step in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Other {
    /// Announced; signs from then on.
    Next(PublicKey, u64),
    /// Signs no more; trusted until then.
    Old(PublicKey, u64),
}

/// What a step of time did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next key signs now.
    Switched,
    /// The old key is trusted no more: there is a new set.
    Retired(PublicKey),
}

/// A rotation is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rotation is under way until {until} (Unix time): wait for its end")]
pub struct UnderWay {
    /// Its next step, Unix seconds.
    pub until: u64,
}

impl Ring {
    /// The first key.
    pub fn new(key: PublicKey, now: u64) -> Self {
        Self { sequence: 0, present: key, since: now, other: None }
    }

    /// Announces the next key, which will sign in `overlap` seconds.
    pub fn announce(&self, key: PublicKey, now: u64, overlap: u64) -> Result<Self, UnderWay> {
        match self.other {
            Some(Other::Next(_, until) | Other::Old(_, until)) => Err(UnderWay { until }),
            None => {
                let other = Some(Other::Next(key, now.saturating_add(overlap)));
                Ok(Self { sequence: self.sequence + 1, other, ..self.clone() })
            }
        }
    }

    /// What time brings: at most one step. Tokens of the old key live `life` seconds more at most.
    pub fn tick(&self, now: u64, life: u64) -> Option<(Self, Step)> {
        match self.other {
            Some(Other::Next(next, at)) if now >= at => {
                let other = Some(Other::Old(self.present, now.saturating_add(life)));
                let ring = Self { present: next, since: now, other, ..*self };
                Some((ring, Step::Switched))
            }
            Some(Other::Old(old, at)) if now >= at => {
                let ring = Self { sequence: self.sequence + 1, other: None, ..self.clone() };
                Some((ring, Step::Retired(old)))
            }
            _ => None,
        }
    }

    /// The present set, for the present key to sign.
    pub fn set(&self) -> Option<KeySet> {
        Some(KeySet { sequence: self.sequence, keys: self.keys()? })
    }

    /// The keys that a host must trust, the signing one first.
    pub fn keys(&self) -> Option<Keys> {
        let other = match self.other {
            Some(Other::Next(key, _) | Other::Old(key, _)) => Some(key),
            None => None,
        };
        Keys::new([self.present].into_iter().chain(other).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use token::Ed25519KeyPair;

    fn pair(n: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap()
    }

    #[test]
    fn a_rotation_announces_switches_and_retires() {
        let [a, b, c] = [1, 2, 3].map(|n| PublicKey::of(&pair(n)));
        let ring = Ring::new(a, 0);
        let announced = ring.announce(b, 100, 60).unwrap();
        assert_eq!(announced.keys().unwrap().list(), [a, b]);
        assert_eq!(announced.announce(c, 101, 60), Err(UnderWay { until: 160 }));
        assert_eq!(announced.tick(159, 10), None);
        let (switched, step) = announced.tick(160, 10).unwrap();
        assert_eq!((switched.present, step), (b, Step::Switched));
        assert_eq!(switched.sequence, announced.sequence, "hosts trust both already");
        assert_eq!(switched.announce(c, 161, 60), Err(UnderWay { until: 170 }));
        let (retired, step) = switched.tick(170, 10).unwrap();
        assert_eq!((retired.keys().unwrap().list(), step), (&[b][..], Step::Retired(a)));
        assert_eq!(retired.sequence, 2);
        assert_eq!(retired.tick(u64::MAX, 10), None);
    }

    proptest! {
        /// Whenever a host hears of a set before the overlap ends, it trusts the key of every token within its life.
        #[test]
        fn a_host_that_hears_in_time_always_trusts_every_living_token(
            overlap in 1_u64..20, life in 1_u64..20, late in 0_u64..20, rotations in prop::collection::vec(0_u64..40, 1..8),
        ) {
            let late = late.min(overlap - 1);
            let pairs: BTreeMap<[u8; 32], Ed25519KeyPair> =
                (1..=9).map(|n| (PublicKey::of(&pair(n)).0, pair(n))).collect();
            let mut fresh = (2..=9).map(|n| PublicKey::of(&pair(n)));
            let mut ring = Ring::new(PublicKey::of(&pair(1)), 0);
            let (mut held, mut sequence) = (ring.keys().unwrap(), 0);
            let mut post: Vec<(u64, Vec<u8>)> = Vec::new();
            let mut tokens: Vec<(PublicKey, u64)> = Vec::new();
            let mut wanted = rotations.iter().scan(0, |at, wait| { *at += wait; Some(*at) }).peekable();
            for now in 0..300 {
                let mut publish = |ring: &Ring, by: PublicKey| {
                    post.push((now + late, ring.set().unwrap().sign(&pairs[&by.0]).unwrap()));
                };
                if wanted.next_if(|at| *at <= now).is_some()
                    && let Some(next) = fresh.next()
                    && let Ok(announced) = ring.announce(next, now, overlap)
                {
                    ring = announced;
                    publish(&ring, ring.present);
                }
                if let Some((next, step)) = ring.tick(now, life) {
                    ring = next;
                    if matches!(step, Step::Retired(_)) {
                        publish(&ring, ring.present);
                    }
                }
                tokens.push((ring.present, now + life));
                post.retain(|(at, signed)| {
                    if *at > now {
                        return true;
                    }
                    let set = held.follow(signed, sequence).unwrap();
                    (held, sequence) = (set.keys, set.sequence);
                    false
                });
                tokens.retain(|(_, end)| *end > now);
                for (key, _) in &tokens {
                    prop_assert!(held.list().contains(key), "at {now}");
                }
            }
        }
    }
}
