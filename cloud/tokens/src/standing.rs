//! What hosts were last found to be: who appraises them says so, and time takes it away again. No I/O and no clock.

use ids::HostId;
use rights::Attestation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far ahead of ours the clock of who appraises may be, in seconds.
const SKEW: u64 = 60;
/// Of a host that was found to be what it should be.
pub(crate) const PASSED: &str = "attestation.passed";
/// Of one that was not.
pub(crate) const FAILED: &str = "attestation.failed";
/// Of one that could not be asked.
pub(crate) const UNKNOWN: &str = "attestation.unknown";
/// Nobody has appraised the host for longer than an appraisal is good.
pub(crate) const STALE: &str = "attestation.stale";
/// Less than a quarter of the life of the host's certificate is left.
pub(crate) const ENDING: &str = "certificate.ending";

/// How long a certificate lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// Its last second, Unix time.
    pub ends: u64,
    /// For how many seconds it was issued.
    pub seconds: u64,
}

/// What a host was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Whether it is what the installation's attestation policy takes; unknown if it could not be asked.
    pub attestation: Attestation,
    /// When that was found, in Unix seconds.
    pub at: u64,
    /// Why it failed, or could not be asked: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The certificate that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Life>,
}

impl Standing {
    /// The code under which it is written down.
    pub(crate) fn word(&self) -> &'static str {
        match self.attestation {
            Attestation::Passed => PASSED,
            Attestation::Failed => FAILED,
            Attestation::Unknown => UNKNOWN,
        }
    }
}

/// All that is known, host by host.
#[derive(Debug, Clone)]
pub(crate) struct Standings {
    known: BTreeMap<HostId, Standing>,
    /// What was told of already: the appraisal that grew old, the certificate that ends.
    told: BTreeMap<HostId, (u64, u64)>,
    bound: u64,
    since: u64,
}

impl Default for Standings {
    fn default() -> Self {
        Self::new(BTreeMap::new(), u64::MAX, 0)
    }
}

impl Standings {
    /// What an earlier run knew. From `now` on, an appraisal is good for `bound` seconds.
    pub(crate) fn new(known: BTreeMap<HostId, Standing>, bound: u64, now: u64) -> Self {
        Self { known, told: BTreeMap::new(), bound, since: now }
    }

    /// What there is to write down of news at `now`: who failed stays so until it passes, whether or not it can be
    /// asked. None for news that are older than what is known, or of a time that has not come.
    pub(crate) fn next(&self, host: &HostId, mut news: Standing, now: u64) -> Option<Standing> {
        let known = self.known.get(host);
        let old = known.is_some_and(|known| known.at > news.at);
        if old || news.at > now.saturating_add(SKEW) {
            return None;
        }
        if let Some(known) = known {
            news.certificate = news.certificate.or(known.certificate);
            if news.attestation == Attestation::Unknown {
                (news.attestation, news.at) = (known.attestation, known.at);
            }
        }
        Some(news)
    }

    /// Knows it from now on.
    pub(crate) fn put(&mut self, host: HostId, standing: Standing) {
        self.known.insert(host, standing);
    }

    /// What was found of a host, if anybody ever looked; one that passed too long ago is unknown again.
    pub(crate) fn of(&self, host: &HostId, now: u64) -> Option<Standing> {
        let mut standing = self.known.get(host)?.clone();
        if standing.attestation == Attestation::Passed && self.is_old(&standing, now) {
            standing.attestation = Attestation::Unknown;
        }
        Some(standing)
    }

    fn is_old(&self, standing: &Standing, now: u64) -> bool {
        now > standing.at.saturating_add(self.bound)
    }

    /// What has come due by time alone, each once: appraisals that grew old, certificates that end. Who appraises has
    /// some time after a start of ours.
    pub(crate) fn due(&mut self, now: u64, is_ours: impl Fn(&HostId) -> bool) -> Vec<(HostId, &'static str)> {
        if now <= self.since.saturating_add(self.bound) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (host, standing) in self.known.iter().filter(|(host, _)| is_ours(host)) {
            let told = self.told.entry(host.clone()).or_default();
            let ends = standing.certificate.filter(|life| now.saturating_add(life.seconds / 4) > life.ends);
            if now > standing.at.saturating_add(self.bound) && told.0 != standing.at {
                told.0 = standing.at;
                due.push((host.clone(), STALE));
            }
            if let Some(Life { ends, .. }) = ends.filter(|life| told.1 != life.ends) {
                told.1 = ends;
                due.push((host.clone(), ENDING));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(attestation: Attestation, at: u64) -> Standing {
        Standing { attestation, at, code: None, certificate: Some(Life { ends: at + 100, seconds: 100 }) }
    }

    fn host() -> HostId {
        HostId::from_random(1)
    }

    fn told(standings: &mut Standings, news: Standing, now: u64) {
        let next = standings.next(&host(), news, now).unwrap();
        standings.put(host(), next);
    }

    #[test]
    fn who_passed_is_unknown_again_after_a_while_and_who_failed_stays_so() {
        let mut all = Standings::new(BTreeMap::new(), 50, 0);
        let is = |all: &Standings, now| all.of(&host(), now).map(|standing| standing.attestation);
        assert_eq!(is(&all, 1000), None);
        told(&mut all, standing(Attestation::Passed, 1000), 1000);
        assert_eq!([is(&all, 1050), is(&all, 1051)], [Some(Attestation::Passed), Some(Attestation::Unknown)]);
        // Who cannot be asked is what it was, as old as that is.
        told(&mut all, standing(Attestation::Unknown, 1040), 1040);
        assert_eq!([is(&all, 1050), is(&all, 1051)], [Some(Attestation::Passed), Some(Attestation::Unknown)]);
        told(&mut all, standing(Attestation::Failed, 1060), 1060);
        told(&mut all, standing(Attestation::Unknown, 1070), 1070);
        assert_eq!(is(&all, 9999), Some(Attestation::Failed), "silence makes nothing better");
        told(&mut all, standing(Attestation::Passed, 1080), 1080);
        assert_eq!(is(&all, 1081), Some(Attestation::Passed));
    }

    #[test]
    fn news_from_the_past_or_the_future_are_none() {
        let mut all = Standings::new(BTreeMap::new(), 50, 0);
        told(&mut all, standing(Attestation::Failed, 1000), 1000);
        assert_eq!(all.next(&host(), standing(Attestation::Passed, 999), 1000), None);
        assert_eq!(all.next(&host(), standing(Attestation::Passed, 1000 + SKEW + 1), 1000), None);
    }

    #[test]
    fn time_alone_tells_of_old_appraisals_and_of_certificates_that_end() {
        let mut all = Standings::new(BTreeMap::new(), 50, 1000);
        told(&mut all, standing(Attestation::Passed, 1000), 1000);
        assert!(all.due(1050, |_| true).is_empty(), "just started");
        assert_eq!(all.due(1051, |_| true), [(host(), STALE)]);
        assert!(all.due(1075, |_| true).is_empty(), "told once");
        assert!(all.due(1076, |_| false).is_empty(), "no host of ours any more");
        assert_eq!(all.due(1076, |_| true), [(host(), ENDING)]);
        told(&mut all, standing(Attestation::Passed, 1080), 1080);
        assert!(all.due(1100, |_| true).is_empty(), "renewed");
    }
}
