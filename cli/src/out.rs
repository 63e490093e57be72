//! What the command prints: text and progress for people, one JSON document for programs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{io::IsTerminal, time::Duration};

/// Where output goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    json: bool,
    colour: bool,
}

impl Out {
    /// For people, or as JSON.
    pub(crate) fn new(json: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colour }
    }

    /// Prints a result: `text` for people, `value` for programs.
    pub(crate) fn result(self, text: &str, value: &impl Serialize) {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
        } else {
            println!("{text}");
        }
    }

    /// A line for people only.
    pub(crate) fn line(self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Wraps a text in an ANSI colour where the terminal has them.
    pub(crate) fn paint(self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line that shows that work goes on; it vanishes when dropped.
    pub(crate) fn progress(self, what: &str) -> Progress {
        let bar = if self.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(
            ProgressStyle::with_template("   {spinner} {msg} {elapsed:.dim}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(what.to_owned());
        Progress { bar, what: what.to_owned() }
    }

    /// Says why the command failed.
    pub(crate) fn failure(self, error: &crate::failure::Failure) {
        if matches!(error, crate::failure::Failure::Promise) && self.json {
            // The report has said it: one document is one document.
        } else if self.json {
            let value = serde_json::json!({"error": {"code": error.code(), "message": error.to_string()}});
            println!("{}", serde_json::to_string_pretty(&value).unwrap_or_default());
        } else {
            eprintln!("{}: {error}", self.paint(31, "error"));
        }
    }
}

/// Work under way.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
}

impl Progress {
    /// Says how far it has come.
    pub(crate) fn at(&self, how_far: &str) {
        let how_far: String = how_far.chars().filter(|c| !c.is_control()).take(90).collect();
        self.bar.set_message(format!("{}: {how_far}", self.what));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
