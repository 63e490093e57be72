use crate::Error;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// Longest report in bytes.
const MAX_REPORT: u64 = 16 * 1024;

/// Why a stage of a start went no further: one line of JSON in a file, for whoever finds that nothing answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `rom`, `stage-1` or `controller`.
    pub stage: String,
    /// The stable code of the refusal.
    pub code: String,
    /// What it is about: where there is one, the entry of the event log.
    pub entry: String,
    /// What to do.
    pub message: String,
}

impl Report {
    /// Puts the report in its place, whole.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let beside = path.with_added_extension("new");
        let line =
            serde_json::to_string(self).map_err(|_| Error::Make("the report cannot be written".into()))?;
        File::create(&beside)
            .and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n")))
            .and_then(|()| fs::rename(&beside, path))
            .map_err(Error::file(path))
    }

    /// Removes the report of an earlier start.
    pub fn forget(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(path)(error)),
            _ => Ok(()),
        }
    }

    /// Reads the report, if there is one that is a report.
    pub fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(path).ok()?.take(MAX_REPORT).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_read_and_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("boot-report");
        assert_eq!(Report::read(&path), None);
        let report = Report {
            stage: "stage-1".into(),
            code: "stage-1.controller".into(),
            entry: "controller".into(),
            message: "a \"quoted\" word".into(),
        };
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).as_ref(), Some(&report));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        Report::forget(&path).unwrap();
        Report::forget(&path).unwrap();
        assert_eq!(Report::read(&path), None);
    }

    #[test]
    fn the_boot_roms_report_is_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("boot-report");
        fs::write(&path, boot_rom::report::Line::report(boot_rom::Refusal::Hash).bytes()).unwrap();
        let report = Report::read(&path).unwrap();
        assert_eq!(
            (report.stage.as_str(), report.code.as_str(), report.entry.as_str()),
            ("rom", "rom.hash", "stage 1")
        );
    }
}
