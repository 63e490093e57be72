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
    cloud::{Cloud, Refused},
    failure::{Doing, Failure},
    out::Out,
    place::Place,
    verbs,
};
use clap::{Args, ValueHint};
use ids::{HostId, Identity};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// What `azote claims --help` ends with.
pub(crate) const HELP: &str = "\
The attempts are real: they are in the logs, and they raise alarms.
With --json the report has the format azote-claims/1.

Exit codes:
  0  no claim is broken; one that is not shown does not count (see `.claims[].outcome`)
  1  a claim is broken (claims.broken), evidence could not be gathered, or --verify
     refuses (claims.signature)
  2  wrong usage

The signature, FILE.signature, is JSON of the format azote-signature/1:
  key          SHA-256 of the auditor's Ed25519 public key, in hexadecimal
  certificate  the auditor's certificate, PEM
  signed       when, in Unix seconds
  signature    COSE_Sign1 (RFC 9052; EdDSA; external data `azote/claims/1`) over the
               SHA-256 of FILE in hexadecimal, a space and `signed`; base64url without padding
--verify takes it from a member of the group `auditors` whom the authority certified
at that time, and says if the certificate has ended since. Nothing need be up for it.

Examples:
  azote claims --html claims.html
  azote claims --verify claims.html
  azote --json claims | jq '.claims[] | select(.outcome != \"holds\")'";

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
    /// Certificate (PEM) of the authority that --verify believes; without it, this installation's.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "verify")]
    ca: Option<PathBuf>,
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

/// What evidence rests on: see [`Basis::words`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    Kernel,
    Cryptography,
    Release,
    Solver,
    LabStandIn,
    DevelopmentMachine,
}

impl Basis {
    const ALL: [Self; 6] = [
        Self::Kernel,
        Self::Cryptography,
        Self::Release,
        Self::Solver,
        Self::LabStandIn,
        Self::DevelopmentMachine,
    ];

    /// Its name, and what must be trusted where a row rests on it.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Kernel => ("kernel", "Linux: what it says of processes, and what it denies them"),
            Self::Cryptography => {
                ("cryptography", "the cryptographic library, and that private keys are where they belong")
            }
            Self::Release => ("this release", "this command, and that the services are of its release"),
            Self::Solver => ("solver", "the solvers and models that the proofs are done with"),
            Self::LabStandIn => {
                ("lab stand-in", "an emulated main board and a software TPM, in place of hardware")
            }
            Self::DevelopmentMachine => ("development machine", "everybody with an account on this machine"),
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

    /// Of attempts that must be refused.
    fn of_refusals<'a>(what: &str, tried: impl Iterator<Item = &'a Refused>, rests_on: &[Basis]) -> Self {
        let (good, other): (Vec<_>, Vec<_>) = tried.partition(|it| it.is_right());
        if let Some(wrong) = other.iter().map(|it| it.code.as_deref().map_or(Outcome::Broken, said)).max() {
            let told = |it: &&Refused| {
                format!("{}: {}, not {}", it.what, it.code.as_deref().unwrap_or("NOT REFUSED"), it.wanted)
            };
            let told: Vec<String> = other.iter().map(told).collect();
            return Self::new(what, wrong, told.join("; "), rests_on);
        }
        let mut codes = BTreeMap::<&str, Vec<&str>>::new();
        good.iter().for_each(|it| codes.entry(it.wanted).or_default().push(&it.what));
        let told = codes.iter().map(|(code, tried)| match tried.len() {
            ..=6 => format!("{} ({code})", tried.join(", ")),
            count => format!("{count} × {code}"),
        });
        let found = format!("{} attempts, all refused: {}", good.len(), told.collect::<Vec<_>>().join("; "));
        let outcome = if good.is_empty() { Outcome::NotShown } else { Outcome::Holds };
        Self::new(what, outcome, found, rests_on)
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

/// What another refusal than the right one says. Who could not be asked has given nothing.
fn said(code: &str) -> Outcome {
    if code == "call.unreachable" { Outcome::NotShown } else { Outcome::Broken }
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
        let signed = signature::verify(place, file, ask.ca.as_deref())?;
        out.result(&signed.text(), &signed);
        return Ok(());
    }
    let report = gather(out, place, ask).map_err(|error| verbs::told(place, error))?;
    if let Some(file) = &ask.html {
        let page = html::page(&report)?;
        let key = signature::write(place, file, page.as_bytes())?;
        out.remark(&format!("{}: signed with key {key}; `azote claims --verify` checks it", file.display()));
    }
    out.result(&text(&report), &report);
    if report.claims.iter().any(|claim| claim.outcome == Outcome::Broken) {
        return Err(Failure::Reported("claims.broken", "a claim is broken: see BROKEN above"));
    }
    Ok(())
}

fn gather(out: Out, place: &Place, ask: &Claims) -> Result<Report, Failure> {
    let by = signature::signer(place)?.identity().map_err(Failure::state)?;
    let cloud = Cloud::open(place)?;
    let progress = out.progress("gathering evidence");
    let by_number = std::thread::scope(|scope| {
        let proofs = scope.spawn(|| proofs::lines(ask.proofs.as_deref()));
        progress.at("at the host's door");
        let door = door::knock(place, &cloud)?;
        let handshakes = network::knock(place)?;
        progress.at("in the audit log");
        let log = log::evidence(place, &cloud, &door, &handshakes);
        progress.at("in a volume");
        let content = content::evidence(place);
        progress.at("on the machine");
        let (login, software) = (host::login(place, &door), host::software(place, &cloud));
        progress.at("waiting for the proofs");
        let proofs = proofs.join().map_err(|_| Failure::state("the proofs ended early"))?;
        let door_rows = door::evidence(&door, &proofs);
        let api = api::evidence(&door, &proofs);
        let network = network::evidence(&handshakes);
        Ok::<_, Failure>([login, api, content, network, door_rows, log, software])
    })?;
    let claim = |((number, claim), evidence): ((u8, &'static str), Vec<Evidence>)| {
        let outcome = evidence.iter().map(|it| it.outcome).max().unwrap_or(Outcome::NotShown);
        Claim { number, claim, outcome, evidence }
    };
    let now = time::OffsetDateTime::now_utc().truncate_to_second();
    Ok(Report {
        format: FORMAT,
        made: now.format(&time::format_description::well_known::Rfc3339).map_err(Failure::state)?,
        host: cloud.installation.host.clone(),
        by,
        claims: (1..).zip(CLAIMS).zip(by_number).map(claim).collect(),
    })
}

/// How many claims hold, are not shown and are broken.
fn counted(report: &Report) -> String {
    let count = |outcome| report.claims.iter().filter(|claim| claim.outcome == outcome).count();
    let [holds, not_shown, broken] = [Outcome::Holds, Outcome::NotShown, Outcome::Broken].map(count);
    format!(
        "Of {} claims {holds} hold, {not_shown} are not shown in full, {broken} are broken",
        report.claims.len()
    )
}

/// For people.
fn text(report: &Report) -> String {
    let mut text = format!("host {}, {}, gathered as {}\n", report.host, report.made, report.by);
    for claim in &report.claims {
        let _ = writeln!(text, "\n{}. {:<78} {}", claim.number, claim.claim, claim.outcome.words());
        for evidence in &claim.evidence {
            let mark = match evidence.outcome {
                Outcome::Holds => "✔",
                Outcome::NotShown => "·",
                Outcome::Broken => "✘",
            };
            let basis: Vec<&str> = evidence.rests_on.iter().map(|basis| basis.words().0).collect();
            let rests = if basis.is_empty() { String::new() } else { format!(" [{}]", basis.join(", ")) };
            let found: String = evidence.found.chars().map(harmless).collect();
            let _ = writeln!(text, "   {mark} {}\n       {found}{rests}", evidence.what);
        }
    }
    text + "\n" + &counted(report)
}

/// What a file holds that anybody may have written, if that is not more than so many bytes.
fn bounded(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).doing(path.display())?;
    file.take(most + 1).read_to_end(&mut bytes).doing(path.display())?;
    if bytes.len() as u64 > most {
        return Err(Failure::State(format!("{}: longer than {most} bytes", path.display())));
    }
    Ok(bytes)
}

/// What neither moves a cursor nor turns the direction of a line.
fn harmless(c: char) -> char {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    if c.is_control() || turns { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_refused_is_broken_and_what_could_not_be_asked_is_not_shown() {
        let tried = |codes: &[Option<&str>]| {
            let refused = |code: &Option<&str>| Refused {
                what: "x".to_owned(),
                wanted: "token.missing",
                code: code.map(str::to_owned),
            };
            let tried: Vec<Refused> = codes.iter().map(refused).collect();
            Evidence::of_refusals("", tried.iter(), &[]).outcome
        };
        let (right, gone) = (Some("token.missing"), Some("call.unreachable"));
        assert_eq!(tried(&[right, right]), Outcome::Holds);
        assert_eq!(tried(&[]), Outcome::NotShown);
        assert_eq!(tried(&[gone, right]), Outcome::NotShown);
        for wrong in [None, Some("call.malformed"), Some("token.expired")] {
            assert_eq!(tried(&[right, gone, wrong]), Outcome::Broken);
        }
    }
}
