//! `azote claims`: gathers fresh evidence for the seven claims from a running installation. Every row says what was
//! looked at, what was found, and what it rests on. What nothing has been shown for is said to be not shown.

mod api;
mod content;
mod door;
mod host;
mod html;
mod log;
mod network;
mod proofs;
mod signature;

use crate::{
    cloud::Cloud,
    failure::{Doing, Failure},
    out::Out,
    place::Place,
};
use clap::{Args, ValueHint};
use ids::{HostId, Identity};
use serde::Serialize;
use std::{fmt::Write, path::PathBuf};

/// The version of the report's form.
const FORMAT: &str = "azote-claims/1";

#[derive(Args)]
pub(crate) struct Claims {
    /// Write a report that an auditor can keep, and its signature beside it (FILE.signature).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Lines of a run of the proofs, as JSON; without it they are run, if there is a solver (`cvc5`)
    /// on the PATH or one that `cargo xtask prove` has fetched.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    proofs: Option<PathBuf>,
    /// Check the signature of a report instead of making one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["html", "proofs"])]
    verify: Option<PathBuf>,
}

/// What a piece of evidence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It is so.
    Holds,
    /// Nothing shows it.
    NotShown,
    /// It is not so.
    Broken,
}

impl Outcome {
    fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Broken }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::NotShown => "not shown",
            Self::Broken => "BROKEN",
        }
    }
}

/// What evidence rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    /// Linux: what it says of processes, and what it denies them.
    Kernel,
    /// The cryptographic library, and keys that stay where they are.
    Cryptography,
    /// This program and the release that it came with.
    Release,
    /// Solvers and models of the proofs.
    Solver,
    /// An emulated main board and a software TPM, in place of hardware.
    LabStandIn,
    /// A machine on which other people have accounts.
    DevelopmentMachine,
}

impl Basis {
    const fn words(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Cryptography => "cryptography",
            Self::Release => "this release",
            Self::Solver => "solver",
            Self::LabStandIn => "lab stand-in for hardware",
            Self::DevelopmentMachine => "development machine",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Evidence {
    what: String,
    outcome: Outcome,
    found: String,
    rests_on: Vec<Basis>,
}

impl Evidence {
    fn new(what: &str, outcome: Outcome, found: impl Into<String>, rests_on: &[Basis]) -> Self {
        Self { what: what.to_owned(), outcome, found: found.into(), rests_on: rests_on.to_vec() }
    }

    /// Of something that this release does not have.
    fn absent(what: &str, found: &str) -> Self {
        Self::new(what, Outcome::NotShown, found, &[])
    }

    /// Evidence that could not be gathered is none.
    fn of(what: &str, gathered: Result<Self, Failure>) -> Self {
        gathered.unwrap_or_else(|error| {
            Self::new(what, Outcome::NotShown, format!("could not be looked at: {error}"), &[])
        })
    }
}

/// One of the seven claims.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claim {
    number: u8,
    claim: &'static str,
    /// The worst of its evidence.
    outcome: Outcome,
    evidence: Vec<Evidence>,
}

/// What `azote claims` gathered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    format: &'static str,
    /// RFC 3339.
    made: String,
    host: HostId,
    /// Who gathered and signs.
    by: Identity,
    claims: Vec<Claim>,
}

const CLAIMS: [&str; 7] = [
    "Nobody can log in to the host.",
    "No administrative API reaches customer content.",
    "Nobody can read instance storage or encrypted volumes.",
    "Nobody can read encrypted network traffic.",
    "Administrative APIs always authenticate and authorise.",
    "Administrative APIs always log, refusals included.",
    "Hosts run only tested and signed software, deployed by an authorised service.",
];

/// `azote claims`.
pub(crate) fn run(out: Out, place: &Place, ask: &Claims) -> Result<(), Failure> {
    if let Some(file) = &ask.verify {
        let signed = signature::verify(place, file)?;
        out.result(&signed.text(), &signed);
        return Ok(());
    }
    let report = gather(out, place, ask)?;
    if let Some(file) = &ask.html {
        let page = html::page(&report)?;
        service::write_atomic(file, page.as_bytes()).doing(file.display())?;
        let key = signature::sign(place, file)?;
        out.remark(&format!("{}: signed with key {key}; `azote claims --verify` checks it", file.display()));
    }
    out.result(&text(&report), &report);
    if report.claims.iter().any(|claim| claim.outcome == Outcome::Broken) {
        return Err(Failure::Reported("claims.broken", "a claim is broken: see BROKEN above"));
    }
    Ok(())
}

fn gather(out: Out, place: &Place, ask: &Claims) -> Result<Report, Failure> {
    let progress = out.progress("gathering evidence");
    let cloud = Cloud::open(place)?;
    progress.at("at the host's door");
    let door = door::knock(&cloud)?;
    let handshakes = network::knock(place)?;
    progress.at("in the audit log");
    let log = log::evidence(place, &cloud, &door, &handshakes);
    progress.at("proofs");
    let proofs = proofs::lines(ask.proofs.as_deref());
    progress.at("in a volume");
    let content = content::evidence(place);
    progress.at("on the machine");
    let by_number = [
        host::login(place, &door),
        api::evidence(&proofs),
        content,
        network::evidence(&handshakes),
        door::evidence(&door, &proofs),
        log,
        host::software(place, &cloud),
    ];
    let claim = |((number, claim), evidence): ((u8, &'static str), Vec<Evidence>)| {
        let outcome = evidence.iter().map(|it| it.outcome).max().unwrap_or(Outcome::NotShown);
        Claim { number, claim, outcome, evidence }
    };
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339);
    Ok(Report {
        format: FORMAT,
        made: now.map_err(Failure::state)?,
        host: cloud.installation.host.clone(),
        by: signature::signer(place)?.identity().map_err(Failure::state)?,
        claims: (1..).zip(CLAIMS).zip(by_number).map(claim).collect(),
    })
}

/// For people.
fn text(report: &Report) -> String {
    let mut text = format!("host {}, {}, gathered as {}\n", report.host, report.made, report.by);
    for claim in &report.claims {
        let _ = writeln!(text, "\n{}. {:<78} {}", claim.number, claim.claim, claim.outcome.words());
        for evidence in &claim.evidence {
            let basis: Vec<&str> = evidence.rests_on.iter().map(|basis| basis.words()).collect();
            let mark = match evidence.outcome {
                Outcome::Holds => "✔",
                Outcome::NotShown => "·",
                Outcome::Broken => "✘",
            };
            let _ = writeln!(text, "   {mark} {}", evidence.what);
            let rests = if basis.is_empty() { String::new() } else { format!(" [{}]", basis.join(", ")) };
            let found: String =
                evidence.found.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(text, "       {found}{rests}");
        }
    }
    let count = |outcome| report.claims.iter().filter(|claim| claim.outcome == outcome).count();
    let [holds, not_shown, broken] = [Outcome::Holds, Outcome::NotShown, Outcome::Broken].map(count);
    let _ = write!(text, "\n{holds} claims hold, {not_shown} are not shown in full, {broken} are broken");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worst_decides() {
        assert!(Outcome::Broken > Outcome::NotShown && Outcome::NotShown > Outcome::Holds);
    }
}
