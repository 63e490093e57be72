//! What the demo promised, and whether it held.

use crate::out::Out;
use serde::Serialize;
use std::time::Instant;

/// One promise with the evidence seen for it.
#[derive(Debug, Serialize)]
pub(crate) struct Promise {
    step: u8,
    promise: String,
    held: bool,
    evidence: String,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Report {
    out: Out,
    started: Instant,
    step: u8,
    promises: Vec<Promise>,
}

impl Report {
    /// Starts the clock.
    pub(crate) fn new(out: Out) -> Self {
        Self { out, started: Instant::now(), step: 0, promises: Vec::new() }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        let clock = format!("{:>5.1} s", self.started.elapsed().as_secs_f64());
        self.out.line(&format!(
            "\n{}  {}  {}",
            self.out.paint(36, &clock),
            self.out.paint(1, &self.step.to_string()),
            self.out.paint(1, title)
        ));
    }

    /// Records a promise. Long evidence is shown on lines of its own.
    pub(crate) fn promise(&mut self, promise: &str, held: bool, evidence: impl Into<String>) {
        let evidence = evidence.into();
        let mark = if held { self.out.paint(32, "✔") } else { self.out.paint(31, "✘") };
        self.out.line(&format!("   {mark} {promise}"));
        for line in evidence.lines() {
            self.out.line(&format!("       {}", self.out.paint(2, line)));
        }
        self.promises.push(Promise { step: self.step, promise: promise.to_owned(), held, evidence });
    }

    /// Prints the result; true if every promise held (and there was one).
    pub(crate) fn finish(self, log: &serde_json::Value) -> bool {
        let broken = self.promises.iter().filter(|promise| !promise.held).count();
        let seconds = self.started.elapsed().as_secs_f64();
        let text = format!(
            "\n{} promises held, {} broken, {seconds:.1} s",
            self.promises.len() - broken,
            if broken == 0 { "0".to_owned() } else { self.out.paint(31, &broken.to_string()) },
        );
        let value = serde_json::json!({
            "held": self.promises.len() - broken, "broken": broken, "seconds": seconds, "promises": self.promises, "log": log,
        });
        self.out.result(&text, &value);
        self.holds()
    }

    fn holds(&self) -> bool {
        !self.promises.is_empty() && self.promises.iter().all(|promise| promise.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_breaks_the_whole_and_none_at_all_is_no_success() {
        assert!(!Report::new(Out::new(true)).holds());
        let mut good = Report::new(Out::new(true));
        good.promise("a", true, "seen");
        assert!(good.holds());
        let mut bad = Report::new(Out::new(true));
        bad.promise("a", true, "seen");
        bad.promise("b", false, "not seen");
        assert!(!bad.holds());
    }
}
