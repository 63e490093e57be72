//! The review of a configuration: two people other than its author signed its hash.

use crate::SetHash;
use ids::Identity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use token::{Ed25519KeyPair, PublicKey, cose};

/// Longest review, and longest list of reviewers, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Most signatures under a review.
const MAX_SIGNATURES: usize = 16;
/// Most reviewers.
const MAX_REVIEWERS: usize = 64;
/// How many must sign.
const NEEDED: usize = 2;
const CONTEXT: &[u8] = b"azote/rights-review/1";

/// A review (JSON). `set` is the hash of the configuration that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// The configuration.
    pub set: SetHash,
    /// The one that it takes the place of; none if it is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<SetHash>,
    /// Higher than that of the review in force: a change that was taken back does not come again by its old review.
    pub number: u64,
    /// Who wrote it.
    pub author: Identity,
    /// COSE_Sign1 of the statement by each reviewer, base64url without padding.
    pub signatures: Vec<String>,
}

/// Who may review, each with a key of its own (TOML, `[[reviewer]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reviewers {
    /// The people.
    #[serde(rename = "reviewer")]
    pub reviewers: Vec<Reviewer>,
}

/// One reviewer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reviewer {
    /// A person.
    pub identity: Identity,
    /// That person's Ed25519 key.
    pub key: PublicKey,
}

/// Why a configuration does not count as reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReviewRefused {
    /// Not a review, or not a list of reviewers.
    #[error("not a review, or not a list of reviewers: each person once, each with a key of their own")]
    Missing,
    /// Another configuration.
    #[error("the review is of another configuration: have this one reviewed")]
    Set,
    /// Not a change of the configuration in force.
    #[error(
        "the review is of a change to another configuration than the one in force, or older than its review"
    )]
    Previous,
    /// A signature that no reviewer made, or too few.
    #[error("want valid signatures of {NEEDED} different reviewers")]
    Signatures,
    /// The author signed.
    #[error("the author cannot review: want {NEEDED} other people")]
    Author,
}

impl ReviewRefused {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "review.missing",
            Self::Set => "review.set",
            Self::Previous => "review.previous",
            Self::Signatures => "review.signatures",
            Self::Author => "review.author",
        }
    }
}

impl Reviewers {
    /// Reads the list.
    pub fn parse(text: &str) -> Result<Self, ReviewRefused> {
        if text.len() > MAX_TEXT {
            return Err(ReviewRefused::Missing);
        }
        let list: Self = toml::from_str(text).map_err(|_| ReviewRefused::Missing)?;
        let people: BTreeSet<_> = list.reviewers.iter().map(|r| &r.identity).collect();
        let keys: BTreeSet<_> = list.reviewers.iter().map(|r| r.key.0).collect();
        let all = list.reviewers.len();
        let persons = list.reviewers.iter().all(|r| matches!(r.identity, Identity::Operator(_)));
        let good = people.len() == all && keys.len() == all && all <= MAX_REVIEWERS && persons;
        if good { Ok(list) } else { Err(ReviewRefused::Missing) }
    }
}

impl Review {
    /// A review without signatures yet. Its `number` is best the time, in Unix seconds.
    pub fn new(set: SetHash, previous: Option<SetHash>, number: u64, author: Identity) -> Self {
        Self { set, previous, number, author, signatures: Vec::new() }
    }

    /// Reads a review.
    pub fn parse(text: &str) -> Result<Self, ReviewRefused> {
        let review: Self = if text.len() <= MAX_TEXT { serde_json::from_str(text).ok() } else { None }
            .ok_or(ReviewRefused::Missing)?;
        if review.signatures.len() > MAX_SIGNATURES { Err(ReviewRefused::Signatures) } else { Ok(review) }
    }

    /// What a reviewer signs.
    pub fn statement(&self, reviewer: &Identity) -> String {
        let Self { set, previous, number, author, .. } = self;
        let previous = previous.map_or_else(|| "none".to_owned(), |hash| hash.to_string());
        format!("rights {set}\nprevious {previous}\nnumber {number}\nauthor {author}\nreviewer {reviewer}\n")
    }

    /// Adds the signature of `reviewer`, who holds `key`.
    pub fn sign(&mut self, reviewer: &Identity, key: &Ed25519KeyPair) -> Result<(), ReviewRefused> {
        if *reviewer == self.author {
            return Err(ReviewRefused::Author);
        }
        let signed = cose::sign(key, self.statement(reviewer).into_bytes(), CONTEXT);
        self.signatures.push(cose::to_base64(&signed.ok_or(ReviewRefused::Signatures)?));
        Ok(())
    }

    /// Who reviewed the configuration `set`: two different reviewers or more, the author not among them, and
    /// not one signature that is not theirs.
    pub fn verify(&self, reviewers: &Reviewers, set: &SetHash) -> Result<Vec<Identity>, ReviewRefused> {
        if self.set != *set {
            return Err(ReviewRefused::Set);
        }
        let mut signed = BTreeSet::new();
        for signature in &self.signatures {
            let bytes = cose::from_base64(signature).ok_or(ReviewRefused::Signatures)?;
            let by = |reviewer: &&Reviewer| {
                let statement = self.statement(&reviewer.identity);
                cose::open(&bytes, &[reviewer.key], CONTEXT).is_some_and(|said| said == statement.as_bytes())
            };
            let reviewer = reviewers.reviewers.iter().find(by).ok_or(ReviewRefused::Signatures)?;
            signed.insert(reviewer.identity.clone());
        }
        if signed.contains(&self.author) {
            Err(ReviewRefused::Author)
        } else if signed.len() < NEEDED {
            Err(ReviewRefused::Signatures)
        } else {
            Ok(signed.into_iter().collect())
        }
    }

    /// Refuses a review of a change to anything but `in_force`, which came with the review `number`, and one that is
    /// older than that.
    pub fn follows(&self, in_force: &SetHash, number: u64) -> Result<(), ReviewRefused> {
        let new = self.previous.as_ref() == Some(in_force) && self.number > number;
        let good = self.set == *in_force || new;
        if good { Ok(()) } else { Err(ReviewRefused::Previous) }
    }
}
