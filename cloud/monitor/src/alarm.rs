//! What the monitor raises.

use ids::{HostId, Identity};
use serde::{Deserialize, Serialize};

/// How soon somebody must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// To be read in the course of a day.
    Notice,
    /// To be looked at within the hour.
    Warning,
    /// To be looked at now.
    Critical,
}

impl Severity {
    /// As in rules and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// An alarm. Its JSON form is the body of the webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// Tells this alarm from every other; the same again when it is sent again.
    pub id: String,
    /// The rule that raised it.
    pub rule: String,
    /// How soon somebody must look.
    pub severity: Severity,
    /// When it was raised, in Unix milliseconds by the audit service's clock.
    pub time: u64,
    /// Who did it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Identity>,
    /// The host it is about, if about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The operation, if about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The code of the last entry, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What happened, in a sentence.
    pub summary: String,
    /// What to do first, in a line.
    pub runbook: String,
    /// Where the rest of it stands.
    pub link: String,
    /// How many entries made it.
    pub count: u64,
    /// Whether it was raised before for the same and goes on.
    pub again: bool,
    /// Indices in the audit log of the entries that made it; the last [`Alarm::MAX_ENTRIES`] of them.
    pub entries: Vec<u64>,
}

impl Alarm {
    /// Most entries that an alarm names.
    pub const MAX_ENTRIES: usize = 32;
}
