//! The report of a refusal: one line of JSON that whoever started the host finds when nothing answers.

use crate::Refusal;
use core::fmt::Write;

/// Most bytes of a report.
pub const REPORT: usize = 512;

/// A line of text in memory of fixed size. What does not fit is cut.
pub struct Line {
    bytes: [u8; REPORT],
    length: usize,
}

impl Line {
    /// The report of `refusal`.
    pub fn report(refusal: Refusal) -> Self {
        let (code, entry, message) = (refusal.code(), refusal.entry(), refusal.message());
        Self::of(format_args!(
            "{{\"stage\":\"rom\",\"code\":\"{code}\",\"entry\":\"{entry}\",\"message\":\"{message}\"}}\n"
        ))
    }

    /// Any line.
    pub fn of(text: core::fmt::Arguments<'_>) -> Self {
        let mut line = Self { bytes: [0; REPORT], length: 0 };
        // It fails when the line is full: then it is cut.
        let _ = line.write_fmt(text);
        line
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let room = room.get_mut(..text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 10] = [
        Refusal::Arguments,
        Refusal::Fuse,
        Refusal::RootKey,
        Refusal::Header,
        Refusal::Signature,
        Refusal::Hash,
        Refusal::Rollback,
        Refusal::Environment,
        Refusal::Tpm,
        Refusal::Start,
    ];

    #[test]
    fn a_report_is_one_whole_line() {
        for refusal in ALL {
            let line = Line::report(refusal);
            let text = std::str::from_utf8(line.bytes()).unwrap();
            assert!(text.ends_with("\"}\n") && text.lines().count() == 1, "{text}");
            assert!(
                text.starts_with(&format!(
                    "{{\"stage\":\"rom\",\"code\":\"{}\",\"entry\":\"",
                    refusal.code()
                ))
            );
            assert_eq!(text.matches('"').count(), 16, "nothing in it needs escaping");
            assert!(!text.contains('\\'));
        }
    }
}
