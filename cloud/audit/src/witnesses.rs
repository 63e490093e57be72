//! Witnesses' signatures under checkpoints, and the latest checkpoint that has any. A witness that signs two
//! histories can be shown to have done so; one that signs only what continues what it signed before keeps the log
//! from showing different histories to different readers.

use crate::{
    note::{BadNote, Checkpoint, MAX_NOTE, Note, Purpose, VerifierKey},
    store::LogError,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const COSIGNED: &str = "cosigned";

/// Why a cosignature was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not a checkpoint that this log signed.
    #[error("not a checkpoint that this log signed")]
    Checkpoint(#[from] BadNote),
    /// No configured witness signed it.
    #[error("no witness that this log knows signed it")]
    Witness,
    /// It could not be written down.
    #[error(transparent)]
    File(#[from] LogError),
}

impl Refused {
    /// Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Checkpoint(_) => "cosignature.checkpoint",
            Self::Witness => "cosignature.witness",
            Self::File(_) => "internal",
        }
    }
}

/// The witnesses, and what they signed last.
pub struct Witnesses {
    keys: Vec<VerifierKey>,
    file: PathBuf,
    latest: Option<(Checkpoint, String)>,
}

impl Witnesses {
    /// Opens what was cosigned before. A log that is shorter than that was rolled back.
    pub fn open(
        state: &Path,
        log: &VerifierKey,
        size: u64,
        keys: Vec<VerifierKey>,
    ) -> Result<Self, LogError> {
        let file = state.join(COSIGNED);
        let latest = match fs::read_to_string(&file) {
            Ok(note) => {
                let checkpoint =
                    Checkpoint::open(&note, log).map_err(|_| LogError::Damaged(COSIGNED.to_owned()))?;
                Some((checkpoint, note))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(LogError::File { path: file, source }),
        };
        match &latest {
            Some((checkpoint, _)) if checkpoint.size > size => Err(LogError::RolledBack(checkpoint.size)),
            _ => Ok(Self { keys, file, latest }),
        }
    }

    /// Takes a note that this log and at least one witness signed. Gives the witnesses' names; none if all that was
    /// known, or older than what is.
    pub fn take(&mut self, log: &VerifierKey, note: &str) -> Result<Vec<String>, Refused> {
        let checkpoint = Checkpoint::open(note, log)?;
        let parsed = Note::parse(note)?;
        let witness = |key: &&VerifierKey| key.purpose() == Purpose::Witness && key.signed(&parsed).is_some();
        let signed: Vec<&VerifierKey> = self.keys.iter().filter(witness).collect();
        if signed.is_empty() {
            return Err(Refused::Witness);
        }
        let mut lines: Vec<&str> = parsed.lines_of(log).take(1).collect();
        let known = self.latest.as_ref().filter(|(known, _)| *known == checkpoint);
        let known = known.map(|(_, note)| Note::parse(note)).transpose()?;
        if self.latest.as_ref().is_some_and(|(known, _)| known.size > checkpoint.size) {
            return Ok(Vec::new());
        }
        let before = |key: &VerifierKey| known.as_ref().is_some_and(|note| key.signed(note).is_some());
        let new: Vec<String> =
            signed.iter().filter(|key| !before(key)).map(|key| key.name().to_owned()).collect();
        for key in &self.keys {
            // One line of each, the one that is known first.
            let line = known.iter().chain([&parsed]).find(|note| key.signed(note).is_some());
            lines.extend(line.and_then(|note| note.lines_of(key).next()));
        }
        let text = format!("{}\n{}\n", parsed.text, lines.join("\n"));
        if !new.is_empty() && text.len() <= MAX_NOTE {
            let failed = |source| LogError::File { path: self.file.clone(), source };
            service::write_atomic(&self.file, text.as_bytes()).map_err(failed)?;
            self.latest = Some((checkpoint, text));
        }
        Ok(new)
    }

    /// The witnesses' keys.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// The latest checkpoint that a witness signed, with the signatures.
    pub fn latest(&self) -> Option<&(Checkpoint, String)> {
        self.latest.as_ref()
    }
}
