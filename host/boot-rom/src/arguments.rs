//! The command line of the boot ROM: what would be wired on a board.

use core::ffi::CStr;

/// A command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arguments<'a> {
    /// File with the fuse.
    pub fuse: &'a CStr,
    /// Unix socket or character device of the TPM.
    pub tpm: &'a CStr,
    /// File with header and image of stage 1.
    pub stage1: &'a CStr,
    /// File for the report of a refusal.
    pub report: &'a CStr,
    /// The jumper is set: whoever stands at the board wants the TPM cleared.
    pub clear: bool,
    /// Where `--` stands; stage 1's arguments follow.
    pub end: usize,
}

impl<'a> Arguments<'a> {
    /// Reads a command line, which starts with the program's name. `None` if anything is missing, twice there or
    /// unknown.
    pub fn parse(words: impl IntoIterator<Item = &'a CStr>) -> Option<Self> {
        let (mut files, mut clear) = ([None; FLAGS.len()], false);
        let mut words = words.into_iter().enumerate().skip(1);
        let end = loop {
            let (at, word) = words.next()?;
            match word {
                word if word == c"--" => break at,
                word if word == c"--clear" && !clear => clear = true,
                word => {
                    let file = files.get_mut(FLAGS.iter().position(|flag| *flag == word)?)?;
                    let (_, value) = words.next()?;
                    let proper = !value.is_empty() && !value.to_bytes().starts_with(b"--");
                    if file.replace(value).is_some() || !proper {
                        return None;
                    }
                }
            }
        };
        let [fuse, tpm, stage1, report] = files;
        Some(Self { fuse: fuse?, tpm: tpm?, stage1: stage1?, report: report?, clear, end })
    }
}

const FLAGS: [&CStr; 4] = [c"--fuse", c"--tpm", c"--stage1", c"--report"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_whole_or_refused() {
        let good = [
            c"rom",
            c"--fuse",
            c"f",
            c"--tpm",
            c"t",
            c"--report",
            c"r",
            c"--clear",
            c"--stage1",
            c"s",
            c"--",
            c"--x",
        ];
        let read = Arguments::parse(good).unwrap();
        assert_eq!((read.fuse, read.tpm, read.stage1, read.report), (c"f", c"t", c"s", c"r"));
        assert!(read.clear && read.end == 10);
        for missing in 1..11 {
            let words = good.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, word)| word);
            assert_eq!(Arguments::parse(words).is_some(), missing == 7, "{missing}");
        }
        for (at, word) in [(1, c"--tpm"), (2, c""), (9, c"--clear"), (7, c"--fuses"), (0, c"--")] {
            let mut bad = good;
            bad[at] = word;
            assert_eq!(Arguments::parse(bad).is_some(), at == 0, "{at}");
        }
        assert_eq!(Arguments::parse([]), None);
    }
}
