//! What a guest reports on its console, line by line.

use serde::Serialize;

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not as it should be.
    Failed,
    /// Not there to be checked.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name: lower case, digits and hyphens.
    pub name: String,
    /// Its result.
    pub verdict: Verdict,
    /// What was found, or why not.
    pub text: String,
}

/// One line of the console.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A check.
    Check(Check),
    /// The guest asks for something: `attach`.
    Request(String),
    /// The last line: how many checks were well, failed, and were skipped.
    End([u32; 3]),
    /// Anything else.
    Other(String),
}

impl Line {
    /// Reads a line, without its end.
    pub fn parse(line: &str) -> Self {
        let other = || Self::Other(line.to_owned());
        if let Some(request) = line.strip_prefix("? ") {
            return Self::Request(request.to_owned());
        }
        let mut words = line.splitn(3, ' ');
        let (Some(name), Some(verdict)) = (words.next(), words.next()) else { return other() };
        let text = words.next().unwrap_or_default();
        if name == "end" {
            let counts: Option<Vec<u32>> =
                [verdict].into_iter().chain(text.split(' ')).map(|word| word.parse().ok()).collect();
            return counts.and_then(|counts| counts.try_into().ok()).map_or_else(other, Self::End);
        }
        let verdict = match verdict {
            "ok" => Verdict::Ok,
            "FAIL" => Verdict::Failed,
            "skip" => Verdict::Skipped,
            _ => return other(),
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return other();
        }
        Self::Check(Check { name: name.to_owned(), verdict, text: text.to_owned() })
    }
}

/// Puts lines together from pieces of output.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

/// Longest line that is kept, in bytes; longer ones are cut there.
const LONGEST: usize = 4096;

impl Lines {
    /// The lines that end in `piece`.
    pub fn take(&mut self, piece: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in piece {
            match byte {
                b'\n' => lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()),
                b'\r' => {}
                _ if self.rest.len() < LONGEST => self.rest.push(*byte),
                _ => {}
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, verdict: Verdict, text: &str) -> Line {
        Line::Check(Check { name: name.to_owned(), verdict, text: text.to_owned() })
    }

    #[test]
    fn lines_are_checks_requests_the_end_or_noise() {
        assert_eq!(Line::parse("timer ok 20 ms"), check("timer", Verdict::Ok, "20 ms"));
        assert_eq!(Line::parse("port-io FAIL 1 of 2"), check("port-io", Verdict::Failed, "1 of 2"));
        assert_eq!(Line::parse("rtc skip"), check("rtc", Verdict::Skipped, ""));
        assert_eq!(Line::parse("? attach"), Line::Request("attach".to_owned()));
        assert_eq!(Line::parse("end 3 0 1"), Line::End([3, 0, 1]));
        for noise in ["", "end", "end 1 2", "end 1 2 3 4", "end 1 2 x", "Timer ok", " ok 1", "azote-guest 1"]
        {
            assert_eq!(Line::parse(noise), Line::Other(noise.to_owned()));
        }
    }

    #[test]
    fn lines_come_whole_from_pieces_and_are_bounded() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.take(b"o\n\n"), ["two", ""]);
        lines.take(&[b'x'; 3 * LONGEST]);
        assert_eq!(lines.take(b"\n"), ["x".repeat(LONGEST)]);
    }
}
