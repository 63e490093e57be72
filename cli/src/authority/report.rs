//! What the authority's last round came to: a file beside the logs, for `azote status`.

use crate::{
    failure::{Doing, Failure},
    place::Place,
};
use ids::Identity;
use rights::Attestation;
use serde::{Deserialize, Serialize};
use std::{fmt::Write, fs};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The file.
pub(crate) const REPORT: &str = "run/authority.json";

/// What a round came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it ended, Unix time in seconds.
    pub(crate) round: u64,
    /// Until when the revocation list is good.
    pub(crate) list_ends: Option<u64>,
    /// Who holds certificates.
    pub(crate) holders: Vec<Holder>,
}

/// A host or a service, as it was found last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Which one.
    pub(crate) name: Identity,
    /// The last second of its certificate, Unix time.
    pub(crate) ends: Option<u64>,
    /// What a host was found to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attestation: Option<Attestation>,
    /// What went wrong the last time: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
}

impl Report {
    /// The last one, if there is one.
    pub(crate) fn read(place: &Place) -> Option<Self> {
        serde_json::from_slice(&fs::read(place.path(REPORT)).ok()?).ok()
    }

    pub(super) fn write(&self, place: &Place) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(Failure::state)?;
        service::write_atomic(&place.path(REPORT), &text).doing(REPORT)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let list = self.list_ends.map_or_else(|| "none".to_owned(), |ends| format!("until {}", date(ends)));
        let mut text = format!("authority  last round {}; revocation list {list}", date(self.round));
        for Holder { name, ends, attestation, code } in &self.holders {
            let name = name.to_string().replacen("azote:", "", 1);
            let ends = ends.map_or_else(|| "unknown".to_owned(), |ends| format!("until {}", date(ends)));
            let _ = write!(text, "\ncertificate {name} {ends}");
            if let Some(attestation) = attestation {
                let _ = write!(text, "; attestation {}", word(*attestation));
            }
            if let Some(code) = code {
                let _ = write!(text, "; {code}");
            }
        }
        text
    }
}

fn word(attestation: Attestation) -> &'static str {
    match attestation {
        Attestation::Passed => "passed",
        Attestation::Failed => "FAILED",
        Attestation::Unknown => "unknown",
    }
}

fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_told_in_words() {
        let report = Report {
            round: 1_800_000_000,
            list_ends: Some(1_800_100_000),
            holders: vec![Holder {
                name: "azote:host/h-0123456789abcdef0".parse().unwrap(),
                ends: Some(1_800_050_000),
                attestation: Some(Attestation::Failed),
                code: Some("attest.rollback".to_owned()),
            }],
        };
        let text = report.text();
        for part in [
            "last round 2027-01-15T08:00:00Z",
            "host/h-0123456789abcdef0 until 2027-01-15T21:53:20Z",
            "attestation FAILED; attest.rollback",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
