//! What the guest says: one line for each check on the first serial port, `name ok value`, `name FAIL why` or
//! `name skip why`; `? request` asks whoever runs the guest for something; the last line is `end ok fail skip`.

use crate::arch::out8;
use core::fmt::{self, Write};

/// The first serial port.
pub(crate) const COM1: u16 = 0x3f8;

/// Writes to the first serial port.
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(COM1, byte));
        Ok(())
    }
}

/// A line on the console.
macro_rules! say {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::report::Console, $($part)*);
    }};
}
pub(crate) use say;

/// A short text without an allocator; what does not fit is left out.
pub(crate) struct Text {
    bytes: [u8; 160],
    len: usize,
}

impl Text {
    /// From formatting arguments.
    pub(crate) fn new(what: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; 160], len: 0 };
        let _ = text.write_fmt(what);
        text
    }

    /// Adds one ASCII character.
    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut(self.len).filter(|_| byte.is_ascii()) {
            *to = byte;
            self.len += 1;
        }
    }

    /// What was written.
    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("?")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// Why a check gave no result.
pub(crate) enum Not {
    /// The machine does not do what it should.
    Fail(Text),
    /// The machine does not have it.
    Skip(Text),
}

/// The result of a check.
pub(crate) type Outcome<T = Text> = Result<T, Not>;

/// The text of a result.
macro_rules! text {
    ($($part:tt)*) => { $crate::report::Text::new(format_args!($($part)*)) };
}
/// Ends a check: failed.
macro_rules! fail {
    ($($part:tt)*) => { return Err($crate::report::Not::Fail($crate::report::text!($($part)*))) };
}
/// Ends a check that cannot be made here.
macro_rules! skip {
    ($($part:tt)*) => { return Err($crate::report::Not::Skip($crate::report::text!($($part)*))) };
}
/// Fails unless it holds.
macro_rules! require {
    ($condition:expr, $($part:tt)*) => { if !$condition { $crate::report::fail!($($part)*) } };
}
pub(crate) use {fail, require, skip, text};

/// The count of results.
#[derive(Default)]
pub(crate) struct Tally {
    ok: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Prints the line of one check.
    pub(crate) fn note(&mut self, name: &str, outcome: &Outcome) {
        match outcome {
            Ok(value) => {
                self.ok += 1;
                say!("{name} ok {}", value.as_str());
            }
            Err(Not::Fail(why)) => {
                self.failed += 1;
                say!("{name} FAIL {}", why.as_str());
            }
            Err(Not::Skip(why)) => {
                self.skipped += 1;
                say!("{name} skip {}", why.as_str());
            }
        }
    }

    /// Prints the last line.
    pub(crate) fn end(&self) {
        say!("end {} {} {}", self.ok, self.failed, self.skipped);
    }
}

/// Nanoseconds, to read.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ns @ ..1_000_000 => write!(f, "{}.{:03} us", ns / 1000, ns % 1000),
            ns => write!(f, "{}.{:03} ms", ns / 1_000_000, ns / 1000 % 1000),
        }
    }
}
