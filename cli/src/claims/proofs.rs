//! What the proofs say: lines of an earlier run, or a run made now.

use super::{Basis, Evidence, Outcome, bounded};
use crate::{rack::program, up::hex_sha256};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Longest file of lines in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The program that the proofs are done with.
const SOLVER: &str = "cvc5";

/// What claim 2 asks for.
pub(super) const CONTENT: &[&str] = &[
    "nobody_touches_customer_content",
    "the_floor_holds_under_any_policy",
    "no_policy_breaks_the_glass",
    "the_tenets_hold",
];
/// What claim 5 asks for.
pub(super) const DECISION: &[&str] = &[
    "every_group_has_its_table_and_no_more",
    "the_kernel_grants_nothing_that_it_should_not",
    "a_window_never_gives_more_than_its_limit",
    "the_two_readings_of_the_kernel_agree",
];

/// One proof, as `azote-proofs --json` prints it.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    space: String,
    holds: bool,
    result: String,
}

/// All lines of a run, or why there are none.
pub(super) struct Proofs {
    lines: Result<Vec<Line>, String>,
    source: String,
}

/// Reads or makes a run.
pub(super) fn lines(file: Option<&Path>) -> Proofs {
    if let Some(file) = file {
        let text = read(file);
        let hash = text.as_ref().map_or_else(|_| "none".to_owned(), |text| hex_sha256(text.as_bytes()));
        let source = format!("a run in {}, sha256 {hash}", file.display());
        return Proofs { lines: text.and_then(|text| parse(&text)), source };
    }
    let solvers = solvers();
    let names: Vec<&str> = solvers.iter().map(|(name, _)| *name).collect();
    let source = format!("run now with {SOLVER} of: {}", names.join(", "));
    Proofs { lines: make(&solvers).and_then(|text| parse(&text)), source }
}

fn parse(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).map_err(|error| format!("not a line of a proof: {error}")))
        .collect()
}

fn read(file: &Path) -> Result<String, String> {
    let bytes = bounded(file, MAX_FILE).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8", file.display()))
}

fn make(solvers: &[(&str, PathBuf)]) -> Result<String, String> {
    let advice = "`cargo xtask prove --json > FILE`, then `azote claims --proofs FILE`";
    let proofs = program("azote-proofs").map_err(|_| format!("no proofs here: {advice}"))?;
    if solvers.is_empty() {
        return Err(format!("no solver here: {advice}"));
    }
    let mut text = String::new();
    for name in CONTENT.iter().chain(DECISION) {
        let mut command = Command::new(&proofs);
        command.args(["prove", "--json", name]);
        for (solver, path) in solvers {
            command.arg("--solver").arg(format!("{solver}={}", path.display()));
        }
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
        text.push_str(&String::from_utf8_lossy(&output.map_err(|error| error.to_string())?.stdout));
    }
    Ok(text)
}

/// The two releases that `cargo xtask prove` has fetched, else the one on the PATH. Nothing is fetched here.
fn solvers() -> Vec<(&'static str, PathBuf)> {
    let lab = parts::default_dir();
    let fetched = [("debian", "cvc5-debian"), ("pypi", "cvc5-pypi")];
    let mut found: Vec<_> = fetched
        .map(|(name, folder)| (name, lab.join(folder).join(SOLVER)))
        .into_iter()
        .filter(|(_, solver)| solver.is_file())
        .collect();
    if found.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let solver =
            std::env::split_paths(&path).map(|folder| folder.join(SOLVER)).find(|file| file.is_file());
        found.extend(solver.map(|solver| ("path", solver)));
    }
    found
}

impl Proofs {
    /// A row for the proofs of these names. One that is missing is not shown.
    pub(super) fn row(&self, what: &str, names: &[&str]) -> Evidence {
        let lines = match &self.lines {
            Ok(lines) => lines,
            Err(why) => return Evidence::absent(what, why),
        };
        let found: Vec<&Line> = lines.iter().filter(|line| names.contains(&line.name.as_str())).collect();
        let failed: Vec<String> = found
            .iter()
            .filter(|line| !line.holds)
            .map(|line| format!("{}: {}", line.name, line.result))
            .collect();
        let missing: Vec<&str> =
            names.iter().copied().filter(|name| !found.iter().any(|line| line.name == *name)).collect();
        let (outcome, said) = if !failed.is_empty() {
            (Outcome::Broken, failed.join("; "))
        } else if !missing.is_empty() {
            (Outcome::NotShown, format!("not among the lines: {}", missing.join(", ")))
        } else {
            let said = found.iter().map(|line| format!("{} over {}", line.name, line.space));
            (Outcome::Holds, said.collect::<Vec<_>>().join("; "))
        };
        Evidence::new(what, outcome, format!("{said} ({})", self.source), &[Basis::Solver, Basis::Release])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_that_is_missing_or_fails_does_not_hold() {
        let line = |name: &str, holds: bool| {
            format!(
                "{{\"name\":\"{name}\",\"what\":\"w\",\"space\":\"s\",\"seconds\":1.0,\"holds\":{holds},\"result\":\"r\"}}"
            )
        };
        let text = format!("noise\n{}\n{}\n", line("a", true), line("b", false));
        let proofs = Proofs { lines: parse(&text), source: "here".to_owned() };
        assert_eq!(proofs.row("", &["a"]).outcome, Outcome::Holds);
        assert_eq!(proofs.row("", &["a", "c"]).outcome, Outcome::NotShown);
        assert_eq!(proofs.row("", &["a", "b", "c"]).outcome, Outcome::Broken);
        assert!(parse("{}\n").is_err());
        assert_eq!(lines(Some(Path::new("/none"))).row("", &["a"]).outcome, Outcome::NotShown);
    }
}
