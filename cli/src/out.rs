//! What the command prints: text and progress for people, one JSON document for programs.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Standard output did not take what was printed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Where output goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    json: bool,
    colour: bool,
}

impl Out {
    /// For people, or as JSON.
    pub(crate) fn new(json: bool) -> Self {
        // https://no-color.org: set and not empty.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: io::stdout().is_terminal() && !plain }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: `text` for people, `value` for programs.
    pub(crate) fn result(self, text: &str, value: &impl Serialize) {
        if self.json {
            print(&serde_json::to_string_pretty(value).unwrap_or_default());
        } else if !text.is_empty() {
            print(text);
        }
    }

    /// A line for people only.
    pub(crate) fn line(self, text: &str) {
        if !self.json {
            print(text);
        }
    }

    /// A remark for people, beside the output.
    pub(crate) fn remark(self, text: &str) {
        if !self.json {
            // Nobody to tell if this fails.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Wraps a text in an ANSI colour where the terminal has them.
    pub(crate) fn paint(self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line that shows that work goes on; it vanishes when dropped. Where there is no terminal, the work is
    /// named once.
    pub(crate) fn progress(self, what: &str) -> Progress {
        let bar = if self.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(style("   {spinner} {msg} {elapsed:.dim}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(what.to_owned());
        if !io::stderr().is_terminal() {
            self.remark(&format!("   … {what}"));
        }
        Progress { bar, what: what.to_owned() }
    }

    /// Says why the command failed.
    pub(crate) fn failure(self, error: &Failure) {
        let (code, message) = (error.code(), error.message());
        if matches!(error, Failure::Promise | Failure::Reported(..)) && self.json {
            // The report has said it: one document is one document.
        } else if self.json {
            self.result("", &failure_document(code, &message));
        } else {
            self.remark(&format!("{}: {message} ({code})", self.paint(31, "error")));
        }
    }
}

/// What programs get for a failure.
pub(crate) fn failure_document(code: &str, message: &str) -> serde_json::Value {
    serde_json::json!({"error": {"code": code, "message": message}})
}

/// Prints a text and a line feed. A reader that has gone (`| head`) is content; any other failure counts.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
        let _ = writeln!(io::stderr(), "error: standard output takes nothing: {error} (output.failed)");
    }
}

/// Whether everything printed was taken.
pub(crate) fn complete() -> bool {
    !LOST.load(Ordering::Relaxed)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Work under way.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
}

impl Progress {
    /// Says how far it has come, in words.
    pub(crate) fn at(&self, how_far: &str) {
        let how_far: String = how_far.chars().filter(|c| !c.is_control()).take(90).collect();
        self.bar.set_message(format!("{}: {how_far}", self.what));
    }

    /// Says how far it has come, in bytes.
    pub(crate) fn bytes(&self, done: u64, all: u64) {
        if self.bar.length() != Some(all) {
            self.bar.set_length(all);
            self.bar.set_style(style(
                "   {spinner} {msg} [{bar:30}] {binary_bytes} of {binary_total_bytes} {elapsed:.dim}",
            ));
        }
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
