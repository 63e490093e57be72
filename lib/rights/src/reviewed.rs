//! What a service checks at its start before it decides by a configuration.

use crate::{Review, ReviewRefused, Reviewers, Rights, RightsError, SetHash, Sources};

/// A configuration that was reviewed as a change of the one in force.
pub struct Reviewed {
    /// The configuration.
    pub rights: Rights,
    /// Its hash.
    pub set: SetHash,
    /// The number of its review.
    pub number: u64,
    /// Who reviewed it, with spaces between.
    pub by: String,
}

/// Why a configuration is not put into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {why}")]
pub struct Unfit {
    /// The stable code.
    pub code: &'static str,
    /// The reason, for people.
    pub why: String,
}

impl From<ReviewRefused> for Unfit {
    fn from(error: ReviewRefused) -> Self {
        Self { code: error.code(), why: error.to_string() }
    }
}

impl From<RightsError> for Unfit {
    fn from(error: RightsError) -> Self {
        Self { code: error.code(), why: error.to_string() }
    }
}

impl Reviewed {
    /// Checks that `review` (JSON) by two of the `reviewers` (TOML) is of these files, as a change of the set that is
    /// in force with the number of its review, and that the files are a configuration.
    ///
    /// # Errors
    /// [`Unfit`] for the first thing that is wrong.
    pub fn check(
        sources: &Sources,
        review: &str,
        reviewers: &str,
        in_force: Option<(SetHash, u64)>,
    ) -> Result<Self, Unfit> {
        let (set, review) = (sources.hash(), Review::parse(review)?);
        let by = review.verify(&Reviewers::parse(reviewers)?, &set)?;
        in_force.map_or(Ok(()), |(in_force, number)| review.follows(&in_force, number))?;
        let by = by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        Ok(Self { rights: Rights::parse(sources)?, set, number: review.number, by })
    }

    /// What to tell when this takes the place of `before`.
    pub fn change(&self, before: &SetHash) -> String {
        format!("{} instead of {before}, reviewed by {}", self.set, self.by)
    }
}
