//! What a proof says.

use std::{fmt, time::Instant};

/// Anything that keeps a proof from being one.
pub type Failure = String;

/// One proof or model, done.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name, as in the specification.
    pub name: &'static str,
    /// What it says.
    pub what: &'static str,
    /// Over what.
    pub space: String,
    /// How long it took.
    pub seconds: f64,
    /// What was found, or why it fails.
    pub result: Result<String, Failure>,
}

/// What a proof found.
#[derive(Debug, Clone)]
pub struct Proved {
    /// Over what.
    pub space: String,
    /// What was found, such as how many planted faults.
    pub found: String,
}

/// A proof that can be done.
pub struct Proof<'a> {
    /// Its name, as in the specification.
    pub name: &'static str,
    what: &'static str,
    prove: Box<dyn FnOnce() -> Result<Proved, Failure> + 'a>,
}

impl<'a> Proof<'a> {
    /// A proof of `what`.
    pub fn new(
        name: &'static str,
        what: &'static str,
        prove: impl FnOnce() -> Result<Proved, Failure> + 'a,
    ) -> Self {
        Self { name, what, prove: Box::new(prove) }
    }

    /// Does it and takes its time.
    pub fn prove(self) -> Line {
        let start = Instant::now();
        let (space, result) = match (self.prove)() {
            Ok(Proved { space, found }) => (space, Ok(found)),
            Err(why) => (String::new(), Err(why)),
        };
        Line { name: self.name, what: self.what, space, seconds: start.elapsed().as_secs_f64(), result }
    }
}

impl Line {
    /// The same as one object of JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "what": self.what,
            "space": self.space,
            "seconds": self.seconds,
            "holds": self.result.is_ok(),
            "result": match &self.result { Ok(found) => found, Err(why) => why },
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.result {
            Ok(found) => ("holds", found),
            Err(why) => ("FAILS", why),
        };
        write!(f, "{word}  {:6.2} s  {}: {}", self.seconds, self.name, self.what)?;
        if !self.space.is_empty() {
            write!(f, "; over {}", self.space)?;
        }
        write!(f, "; {text}")
    }
}
