use std::{ffi::OsString, path::PathBuf};

/// The command line of stage 1: `--tpm PATH --release DIR --report FILE -- ARGUMENT...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The TPM's socket or device.
    pub tpm: PathBuf,
    /// The release's folder.
    pub release: PathBuf,
    /// Where a refusal is reported.
    pub report: PathBuf,
    /// What the controller is told.
    pub rest: Vec<OsString>,
}

impl Arguments {
    /// Reads a command line without the program's name. `None` if anything is missing, twice there or unknown.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut files: [Option<PathBuf>; 3] = Default::default();
        let mut words = words.into_iter();
        loop {
            let word = words.next()?;
            if word == "--" {
                break;
            }
            let at = ["--tpm", "--release", "--report"].iter().position(|flag| word == *flag)?;
            let file = files.get_mut(at).filter(|file| file.is_none())?;
            *file = Some(words.next().filter(|path| path != "--")?.into());
        }
        let [tpm, release, report] = files;
        Some(Self { tpm: tpm?, release: release?, report: report?, rest: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Arguments> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_command_line_is_whole_or_refused() {
        let read = parse("--release r --tpm t --report p -- run --tpm x -- y").unwrap();
        assert_eq!((read.tpm, read.release, read.report), ("t".into(), "r".into(), "p".into()));
        assert_eq!(read.rest, ["run", "--tpm", "x", "--", "y"]);
        for bad in [
            "",
            "--tpm t --release r --report p",
            "--tpm t --release r -- x",
            "--tpm t --tpm t --report p --",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("--tpm -- --release r --report p --"), None);
        assert_eq!(parse("--tpm t --release r --report p --clear -- x"), None);
    }
}
