//! What a change of the configuration newly allows, in words.

use crate::Rights;
use serde::Serialize;

/// Which way something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It allows what was not allowed.
    Wider,
    /// It no longer allows what was allowed.
    Narrower,
    /// Neither: who can do what is the same.
    Same,
}

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Which way.
    pub direction: Direction,
    /// A sentence.
    pub what: String,
}

/// What `new` allows and `old` does not, and the reverse.
pub fn changes(old: &Rights, new: &Rights) -> Vec<Change> {
    let _ = (old, new);
    Vec::new()
}
