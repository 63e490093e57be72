//! Claims 1, 2 and 5: attempts at the host's door that must be refused, made on the spot. Each is looked for in the
//! log afterwards.

use super::{
    Basis, Evidence,
    proofs::{DECISION, Proofs},
};
use crate::{
    cloud::{Ask, Cloud, Refused, Who},
    failure::Failure,
    place::Place,
};
use host_api::{Api, Resource};
use ids::HostId;
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

/// An attempt at the host's door.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) kind: Kind,
    /// The operation, if it is one's.
    pub(super) api: Option<Api>,
    pub(super) refused: Refused,
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

/// All attempts, and the last record of the host's log before them.
pub(super) struct Knocks {
    pub(super) after: u64,
    pub(super) attempts: Vec<Attempt>,
    /// At the token service, which decides before the host does again.
    asked: Vec<Refused>,
    /// At the other services.
    strangers: Vec<Refused>,
}

impl Knocks {
    /// A row for the attempts of a kind.
    pub(super) fn row(&self, kind: Kind, what: &str) -> Evidence {
        let tried = self.attempts.iter().filter(|attempt| attempt.kind == kind).map(|it| &it.refused);
        Evidence::of_refusals(what, tried, &[Basis::Release, Basis::Cryptography])
    }
}

/// Makes the attempts.
pub(super) fn knock(place: &Place, cloud: &Cloud) -> Result<Knocks, Failure> {
    let after = cloud.status()?.log.last;
    let mut attempts = Vec::new();
    for (method, path) in PATHS {
        let answer = cloud.raw(method, path, &[]);
        let refused = Refused::new(format!("{method} {path}"), "request.unknown", answer);
        attempts.push(Attempt { kind: Kind::Unknown, api: None, refused });
    }
    for api in Api::ALL {
        let bare: (&str, &[(&str, &str)], _) = ("no token", &[], "token.missing");
        let invented: &[_] = &[(token::TOKEN_HEADER, "Bearer aW52ZW50ZWQ")];
        for (what, headers, wanted) in [bare, ("an invented token", invented, "token.malformed")] {
            let answer = cloud.raw(api.method().name(), api.path(), headers);
            let refused = Refused::new(format!("{api} with {what}"), wanted, answer);
            attempts.push(Attempt { kind: Kind::Unauthenticated, api: Some(*api), refused });
        }
    }
    attempts.extend(with_tokens(cloud)?);
    Ok(Knocks { after, attempts, asked: asked(cloud), strangers: cloud.without_certificate(place)? })
}

fn with_tokens(cloud: &Cloud) -> Result<Vec<Attempt>, Failure> {
    let (here, elsewhere) = (&cloud.installation.host, &cloud.installation.importer);
    let token = |host, lifetime| cloud.token(Who::Operator, &ask(Api::HostStatus, host, lifetime));
    let expired = token(here, BRIEF)?;
    let good = token(here, MINUTE)?;
    let elsewhere = token(elsewhere, MINUTE)?;
    std::thread::sleep(BRIEF + Duration::from_millis(1100));
    let status = host_api::ReadStatus {};
    let knock = |token: &str| cloud.knock(Who::Operator, Some(token), &status);
    let bearer = format!("Bearer {good}");
    let unproven = cloud.raw("GET", Api::HostStatus.path(), &[(token::TOKEN_HEADER, &bearer)]);
    let stolen = cloud.knock_with_another_key(&good, &status);
    let drain = cloud.knock(Who::Operator, Some(&good), &host_api::DrainHost {});
    let expired = Refused::new("an expired token", "token.expired", knock(&expired));
    let unproven = Refused::new("a token without a proof that its holder asks", "proof.missing", unproven);
    let stolen = Refused::new("a token, proven with another's key", "proof.signature", stolen);
    let elsewhere = Refused::new("a token for another host", "token.audience", knock(&elsewhere));
    let drain = Refused::new("a token for another operation", "token.api", drain);
    let attempts = [
        (Kind::Unauthenticated, Api::HostStatus, expired),
        (Kind::Unauthenticated, Api::HostStatus, unproven),
        (Kind::Unauthenticated, Api::HostStatus, stolen),
        (Kind::Unauthorised, Api::HostStatus, elsewhere),
        (Kind::Unauthorised, Api::DrainHost, drain),
    ];
    Ok(attempts.map(|(kind, api, refused)| Attempt { kind, api: Some(api), refused }).into())
}

/// Requests for tokens that nobody of this kind may have.
fn asked(cloud: &Cloud) -> Vec<Refused> {
    [
        ("an operator who asks to read a host's log", Who::Operator, Api::ReadLog),
        ("an operator who asks to change the keys that a host trusts", Who::Operator, Api::UpdateTokenKeys),
        ("an auditor who asks to power-cycle a host", Who::Auditor, Api::PowerCycleHost),
        ("the control plane that asks to drain a host", Who::ControlPlane, Api::DrainHost),
    ]
    .map(|(what, who, api)| {
        let answer = cloud.token(who, &ask(api, &cloud.installation.host, MINUTE));
        Refused::new(what, "rights.api", answer)
    })
    .into()
}

fn ask(api: Api, host: &HostId, lifetime: Duration) -> Ask {
    let (resources, audience) = (vec![Resource::Host(host.clone())], Some(host.clone()));
    Ask { apis: vec![api], resources, audience, lifetime }
}

/// Claim 5.
pub(super) fn evidence(knocks: &Knocks, proofs: &Proofs) -> Vec<Evidence> {
    vec![
        knocks.row(Kind::Unauthenticated, "Every operation of the host, asked for without proof of who asks"),
        knocks.row(Kind::Unauthorised, "Tokens for another host and for another operation"),
        Evidence::of_refusals(
            "Tokens that the rights configuration gives to nobody of this kind",
            knocks.asked.iter(),
            &[Basis::Release, Basis::Cryptography],
        ),
        Evidence::of_refusals(
            "The services behind it, asked without a certificate: no handshake",
            knocks.strangers.iter(),
            &[Basis::Cryptography, Basis::Release],
        ),
        proofs.row(
            "Proofs: over all inputs, a decision needs authentication, right, time, and quota",
            DECISION,
        ),
    ]
}
