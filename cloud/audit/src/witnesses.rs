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
        let mut lines: Vec<&str> = parsed.line_of(log).into_iter().collect();
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
            lines.extend(known.iter().chain([&parsed]).find_map(|note| note.line_of(key)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Signer;
    use service::Key;

    fn signer(name: &str, purpose: Purpose, seed: u8) -> Signer {
        Signer::new(name, purpose, Key::from_seed(&[seed; 32]).unwrap()).unwrap()
    }

    /// A line under the name and id of a signer that it did not make.
    fn forged(signer: &Signer) -> String {
        signer.line("another text\n", 1)
    }

    #[test]
    fn lines_that_nobody_signed_do_not_take_the_place_of_those_that_are() {
        let state = tempfile::tempdir().unwrap();
        let (log, witness) = (signer("log", Purpose::Log, 1), signer("w", Purpose::Witness, 2));
        let open = || Witnesses::open(state.path(), log.public(), 7, vec![witness.public().clone()]);
        let checkpoint = Checkpoint { origin: "log".to_owned(), size: 7, root: [9; 32] };
        let text = checkpoint.text();
        let good = [log.line(&text, 0), witness.line(&text, 5)];
        let note = [text, "\n".to_owned(), forged(&log), forged(&witness), good.concat()].concat();
        assert_eq!(open().unwrap().take(log.public(), &note).unwrap(), ["w"]);
        let again = open().unwrap();
        let (kept, note) = again.latest().unwrap();
        assert_eq!(*kept, checkpoint);
        assert!(note.ends_with(&good.concat()) && !note.contains(&forged(&log)), "{note}");
        assert_eq!(witness.public().signed(&Note::parse(note).unwrap()), Some(5));
    }
}
