//! What the token service writes down of every decision, before anybody is told of it.

use crate::{client::TokenRequest, time};
use ids::{HostId, Identity, Name};
use serde::{Deserialize, Serialize};
use token::{Api, MAX_RESOURCES, Resource};

/// Most entries in one [`Page`].
pub const MAX_PAGE: usize = 256;
/// Longest text of the caller's that an entry holds, in characters.
pub const MAX_TEXT: usize = 200;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The rights and quotas gave it: a token was signed, or the service ended before it could.
    Issued,
    /// No token was signed.
    Refused,
    /// What did not come as far as a decision: a failed handshake, a request that could not be read.
    Incident,
    /// The signing keys changed.
    Keys,
    /// Somebody looked whether a host is what it should be.
    Appraised,
}

/// How the caller was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// By a certificate of the environment.
    Certificate,
    /// By an ID token of the configured OpenID provider.
    Oidc,
}

/// How far a quota is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// Which, as `quotas.toml` and the account name it.
    pub quota: String,
    /// Used up in its window, this decision included.
    pub used: u64,
    /// The most of it in one window.
    pub limit: u64,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When, in milliseconds of Unix time.
    pub time: u64,
    /// What.
    pub kind: Kind,
    /// Who asked; none where nobody was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Identity>,
    /// How they were known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// Their groups, where rights were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Name>,
    /// For which operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Api>,
    /// On what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// For which host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<HostId>,
    /// Under which ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The token's id in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How many calls it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Its end, in seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The quota that has least left of what it allows, where any was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Used>,
    /// The code of a refusal or incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// More, for people; nothing of a request's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Entry {
    /// An entry of this moment without a number.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            seq: 0,
            time: time::milliseconds(),
            kind,
            subject: None,
            by: None,
            groups: Vec::new(),
            operations: Vec::new(),
            resources: Vec::new(),
            audience: None,
            ticket: None,
            token: None,
            uses: None,
            expires: None,
            quota: None,
            code: None,
            detail: None,
        }
    }

    /// The refusal of a request, until it is known to be none. Lists and texts beyond what a token can hold are cut.
    pub(crate) fn of(request: &TokenRequest) -> Self {
        Self {
            operations: request.apis.iter().copied().take(Api::ALL.len()).collect(),
            resources: request.resources.iter().take(MAX_RESOURCES).cloned().collect(),
            audience: Some(request.audience.clone()),
            ticket: request.ticket.as_deref().map(kept),
            ..Self::new(Kind::Refused)
        }
    }
}

/// Others' words as they are kept: one line, not too long.
pub(crate) fn kept(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A piece of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// In order, at most [`MAX_PAGE`].
    pub entries: Vec<Entry>,
    /// The number of the last entry that there is; 0 for none.
    pub last: u64,
}
