//! Claims 1, 2 and 5: attempts at the host's door that must be refused, made on the spot. Each is looked for in the
//! log afterwards.

use super::{
    Basis, Evidence, Outcome,
    proofs::{DECISION, Proofs},
};
use crate::{
    cloud::{Ask, Cloud, Who},
    failure::Failure,
};
use host_api::{Api, Resource};
use service::CallError;
use std::time::Duration;

/// Long enough for one call, short enough to wait for its end.
const BRIEF: Duration = Duration::from_secs(1);
/// Life of the other tokens.
const MINUTE: Duration = Duration::from_secs(60);
/// Paths that a way in would have; no operation has them.
const PATHS: [(&str, &str); 6] = [
    ("POST", "/v1/shell"),
    ("POST", "/v1/exec"),
    ("GET", "/v1/files?path=/etc/shadow"),
    ("GET", "/v1/instances/memory"),
    ("GET", "/v1/volumes/data"),
    ("POST", "/v1/debug"),
];

/// An attempt that must be refused.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Of which kind.
    pub(super) kind: Kind,
    /// What was tried.
    pub(super) what: String,
    /// The operation, if it is one's.
    pub(super) api: Option<Api>,
    /// With which code it must be refused.
    pub(super) wanted: &'static str,
    /// With which it was; none if it was not.
    pub(super) code: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something that no operation is for.
    Unknown,
    /// Without proof of who asks.
    Unauthenticated,
    /// By somebody who may not.
    Unauthorised,
}

impl Attempt {
    pub(super) fn refused(&self) -> bool {
        self.code.as_deref() == Some(self.wanted)
    }
}

/// All attempts, and the last record of the host's log before them.
pub(super) struct Knocks {
    pub(super) after: u64,
    pub(super) attempts: Vec<Attempt>,
    /// At the token service, which decides before the host does again: what was asked, and the code.
    pub(super) asked: Vec<(&'static str, &'static str, Option<String>)>,
}

/// Makes the attempts.
pub(super) fn knock(cloud: &Cloud) -> Result<Knocks, Failure> {
    let after = cloud.status()?.log.last;
    let mut attempts = Vec::new();
    for (method, path) in PATHS {
        let code = refusal(cloud.raw(method, path, &[]));
        let what = format!("{method} {path}");
        attempts.push(Attempt { kind: Kind::Unknown, what, api: None, wanted: "request.unknown", code });
    }
    for api in Api::ALL {
        let bare: (&str, &[(&str, &str)], _) = ("no token", &[], "token.missing");
        let invented: &[_] = &[(token::TOKEN_HEADER, "Bearer aW52ZW50ZWQ")];
        for (what, headers, wanted) in [bare, ("an invented token", invented, "token.malformed")] {
            let code = refusal(cloud.raw(api.method().name(), api.path(), headers));
            let what = format!("{api} with {what}");
            attempts.push(Attempt { kind: Kind::Unauthenticated, what, api: Some(*api), wanted, code });
        }
    }
    attempts.extend(with_tokens(cloud)?);
    Ok(Knocks { after, attempts, asked: asked(cloud) })
}

fn with_tokens(cloud: &Cloud) -> Result<Vec<Attempt>, Failure> {
    let here = &cloud.installation.host;
    let ask = |api, lifetime| Ask {
        apis: vec![api],
        resources: vec![Resource::Host(here.clone())],
        audience: Some(here.clone()),
        lifetime,
    };
    let expired = cloud.token(Who::Operator, &ask(Api::HostStatus, BRIEF))?;
    let good = cloud.token(Who::Operator, &ask(Api::HostStatus, MINUTE))?;
    let elsewhere = Ask {
        resources: vec![Resource::Host(cloud.installation.importer.clone())],
        audience: Some(cloud.installation.importer.clone()),
        ..ask(Api::HostStatus, MINUTE)
    };
    let elsewhere = cloud.token(Who::Operator, &elsewhere)?;
    std::thread::sleep(BRIEF + Duration::from_millis(1100));
    let status = host_api::ReadStatus {};
    let knock = |token: &str| code(cloud.knock(Who::Operator, Some(token), &status));
    let bearer = format!("Bearer {good}");
    let unproven = cloud.raw("GET", Api::HostStatus.path(), &[(token::TOKEN_HEADER, &bearer)]);
    let authenticated = Kind::Unauthenticated;
    let case = |kind, what: &str, api, wanted, code| Attempt {
        kind,
        what: what.to_owned(),
        api: Some(api),
        wanted,
        code,
    };
    Ok(vec![
        case(authenticated, "an expired token", Api::HostStatus, "token.expired", knock(&expired)),
        case(
            authenticated,
            "a token without a proof that its holder asks",
            Api::HostStatus,
            "proof.missing",
            refusal(unproven),
        ),
        case(
            authenticated,
            "a token, proven with another's key",
            Api::HostStatus,
            "proof.signature",
            code(cloud.knock_with_another_key(&good, &status)),
        ),
        case(
            Kind::Unauthorised,
            "a token for another host",
            Api::HostStatus,
            "token.audience",
            knock(&elsewhere),
        ),
        case(
            Kind::Unauthorised,
            "a token for another operation",
            Api::DrainHost,
            "token.api",
            code(cloud.knock(Who::Operator, Some(&good), &host_api::DrainHost {})),
        ),
    ])
}

/// Requests for tokens that nobody may have.
fn asked(cloud: &Cloud) -> Vec<(&'static str, &'static str, Option<String>)> {
    let here = &cloud.installation.host;
    let ask = |api| Ask {
        apis: vec![api],
        resources: vec![Resource::Host(here.clone())],
        audience: None,
        lifetime: MINUTE,
    };
    [
        ("an operator asks to read a host's log", Who::Operator, Api::ReadLog),
        ("an operator asks to change the keys that a host trusts", Who::Operator, Api::UpdateTokenKeys),
        ("an auditor asks to power-cycle a host", Who::Auditor, Api::PowerCycleHost),
        ("the control plane asks to drain a host", Who::ControlPlane, Api::DrainHost),
    ]
    .map(|(what, who, api)| (what, "rights.", code(cloud.token(who, &ask(api)))))
    .to_vec()
}

fn refusal<T>(answer: Result<T, CallError>) -> Option<String> {
    answer.err().map(|error| error.code().to_owned())
}

fn code<T>(answer: Result<T, Failure>) -> Option<String> {
    answer.err().map(|error| error.code().to_owned())
}

/// A row for the attempts of a kind.
pub(super) fn row(knocks: &Knocks, kind: Kind, what: &str) -> Evidence {
    let all: Vec<&Attempt> = knocks.attempts.iter().filter(|attempt| attempt.kind == kind).collect();
    let wrong: Vec<String> = all
        .iter()
        .filter(|attempt| !attempt.refused())
        .map(|it| format!("{}: {}, not {}", it.what, it.code.as_deref().unwrap_or("done"), it.wanted))
        .collect();
    let mut codes: Vec<&str> = all.iter().map(|attempt| attempt.wanted).collect();
    codes.dedup();
    codes.sort_unstable();
    codes.dedup();
    let found = if wrong.is_empty() {
        format!("{} attempts, all refused ({})", all.len(), codes.join(", "))
    } else {
        wrong.join("; ")
    };
    let outcome = Outcome::of(wrong.is_empty() && !all.is_empty());
    Evidence::new(what, outcome, found, &[Basis::Release, Basis::Cryptography])
}

/// Claim 5.
pub(super) fn evidence(knocks: &Knocks, proofs: &Proofs) -> Vec<Evidence> {
    let wrong: Vec<String> = knocks
        .asked
        .iter()
        .filter(|(_, wanted, code)| !code.as_ref().is_some_and(|code| code.starts_with(wanted)))
        .map(|(what, _, code)| format!("{what}: {}", code.as_deref().unwrap_or("given")))
        .collect();
    let found = if wrong.is_empty() {
        let codes: Vec<&str> = knocks.asked.iter().filter_map(|(_, _, code)| code.as_deref()).collect();
        format!("{} requests, all refused ({})", knocks.asked.len(), codes.join(", "))
    } else {
        wrong.join("; ")
    };
    vec![
        row(knocks, Kind::Unauthenticated, "Every operation of the host, asked without proof of who asks"),
        row(knocks, Kind::Unauthorised, "Tokens for another host and for another operation"),
        Evidence::new(
            "Tokens that the rights configuration gives to nobody of this kind",
            Outcome::of(wrong.is_empty()),
            found,
            &[Basis::Release, Basis::Cryptography],
        ),
        proofs.row(
            "Proofs: over all inputs, a decision needs authentication, right, time, and quota",
            DECISION,
        ),
    ]
}
