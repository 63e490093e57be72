//! The rights configuration that decides who may read: given and checked at the start as the token service's is. What
//! was in force before is in a file of the state folder; changes, and sets that were refused, become entries.

use crate::{entry::Observed, tree};
use rights::{Reviewed, Rights, RightsError, SetHash, Sources, Unfit};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILE: &str = "rights.json";
/// Another set than before. The token service's journal has the same codes.
const CHANGED: &str = "policy.changed";
/// Others may review than before.
const REVIEWERS: &str = "policy.reviewers";

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReadersError {
    /// The configuration is not put into force; said in the log when the service runs again.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The compiled-in configuration is none.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The file of what is in force cannot be read or written.
    #[error("{0}: {1}: put it back from a copy")]
    File(PathBuf, #[source] io::Error),
}

/// What is kept between runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    in_force: Option<(SetHash, u64)>,
    /// SHA-256 of the list of reviewers.
    reviewers: Option<[u8; 32]>,
    /// The code of the set that was refused last, and why; not told yet.
    refused: Option<(String, String)>,
}

/// The rights of readers.
pub struct Readers {
    /// The rights.
    pub rights: Rights,
    /// What is to be in the log before [`Readers::keep`].
    pub told: Vec<Observed>,
    file: PathBuf,
    kept: Kept,
}

impl Readers {
    /// The rights in `sources`, which were reviewed: the texts of review and list of reviewers. Without them the
    /// compiled-in configuration counts, and what was in force is remembered.
    pub fn open(state: &Path, given: Option<(&Sources, &str, &str)>) -> Result<Self, ReadersError> {
        let file = state.join(FILE);
        let mut kept = read(&file).map_err(|error| ReadersError::File(file.clone(), error))?;
        let mut told = Vec::new();
        let Some((sources, review, reviewers)) = given else {
            let set = rights::sources().hash();
            if let Some((before, _)) = kept.in_force.filter(|(before, _)| *before != set) {
                let detail = format!("{set}, the compiled-in one, instead of {before}, not reviewed");
                told.push(Observed::event(CHANGED, &detail));
            }
            return Ok(Self { rights: Rights::embedded()?, told, file, kept });
        };
        let reviewed = Reviewed::check(sources, review, reviewers, kept.in_force);
        let reviewed = match reviewed {
            Ok(reviewed) => reviewed,
            Err(unfit) => {
                kept.refused = Some((unfit.code.to_owned(), unfit.why.clone()));
                write(&file, &kept).map_err(|error| ReadersError::File(file, error))?;
                return Err(unfit.into());
            }
        };
        let list = tree::sha256(reviewers.as_bytes());
        if kept.reviewers.replace(list).is_some_and(|before| before != list) {
            let detail = "the list of reviewers is another one than at the last start";
            told.push(Observed::event(REVIEWERS, detail));
        }
        if let Some((code, why)) = kept.refused.take() {
            told.push(Observed::event(&code, &why));
        }
        match kept.in_force {
            // The number stays: that of the review which put it into force.
            Some((before, _)) if before == reviewed.set => {}
            before => {
                told.extend(before.map(|(before, _)| Observed::event(CHANGED, &reviewed.change(&before))));
                kept.in_force = Some((reviewed.set, reviewed.number));
            }
        }
        Ok(Self { rights: reviewed.rights, told, file, kept })
    }

    /// Remembers what is in force now. What there is to tell must be in the log.
    pub fn keep(&self) -> Result<(), ReadersError> {
        write(&self.file, &self.kept).map_err(|error| ReadersError::File(self.file.clone(), error))
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
        read => serde_json::from_slice(&read?).map_err(io::Error::other),
    }
}

fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    service::write_atomic(file, &serde_json::to_vec(kept).map_err(io::Error::other)?)
}
