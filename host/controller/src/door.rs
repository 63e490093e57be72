//! The only door: authenticate, authorise, log the intent, act, log the outcome. In this order, always; what
//! cannot be logged is not done, and every refusal is logged before it is told.

use crate::{
    Refusal,
    clock::Clock,
    host::Host,
    log::{Entry, LogError, Writer},
};
use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{ConnectInfo, State},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use host_api::{MAX_BODY, PeerAddress, RecordKind, Request};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use token::{Call, Claims, PROOF_AHEAD, PROOF_HEADER, ReplaySet, TOKEN_HEADER, Verifier};

/// Most proofs of possession that the host remembers: as many requests in the minute for which a proof is
/// fresh.
const PROOFS: usize = 65_536;

/// The door.
pub struct Door {
    host: Arc<Host>,
    log: Writer,
    verifier: Verifier,
    replay: Mutex<ReplaySet>,
    clock: Clock,
}

/// A request as the network brought it.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The header with the token.
    pub authorization: Option<&'a str>,
    /// The header with the proof of possession.
    pub proof: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
    /// Where it came from.
    pub peer: Option<SocketAddr>,
}

impl Door {
    /// A door into `host` for those whose tokens `verifier` takes. Proofs made before `opened` (Unix
    /// seconds, see [`opens`]) are refused: an earlier run may have taken them.
    pub fn new(host: Arc<Host>, log: Writer, verifier: Verifier, clock: Clock, opened: u64) -> Self {
        let replay = Mutex::new(ReplaySet::new(PROOFS, opened));
        Self { host, log, verifier, replay, clock }
    }

    /// Handles one request; gives the JSON text of the answer.
    pub fn handle(&self, incoming: &Incoming<'_>) -> Result<Vec<u8>, Refusal> {
        let mut entry =
            Entry { peer: incoming.peer.and_then(peer_address), ..Entry::new(RecordKind::Intent) };
        let request = match self.admit(incoming, &mut entry) {
            Ok(request) => request,
            Err(refusal) => return Err(self.refuse(entry, refusal)),
        };
        let intent = self.log.append(entry.clone())?;
        let result = self.host.act(&request);
        let outcome = Entry {
            kind: RecordKind::Outcome,
            intent: Some(intent),
            code: result.as_ref().err().and_then(Refusal::log_code),
            ..entry
        };
        self.log.append(outcome)?;
        result
    }

    /// Checks everything that can be checked without touching the host. Fills `entry` with what is known
    /// of the request so far.
    fn admit(&self, incoming: &Incoming<'_>, entry: &mut Entry) -> Result<Request, Refusal> {
        let (path, query) = match incoming.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (incoming.target, None),
        };
        let spec = host_api::find(incoming.method, path).ok_or_else(|| Refusal::of("request.unknown"))?;
        entry.api = Some(spec.api);
        let claims = self.authenticate(incoming, entry)?;
        let request = Request::parse(spec.api, query, incoming.body)?;
        entry.resources = request.resources(self.host.id());
        claims.authorize(spec.api, &entry.resources)?;
        self.host.admits(&request)?;
        Ok(request)
    }

    fn authenticate(&self, incoming: &Incoming<'_>, entry: &mut Entry) -> Result<Claims, Refusal> {
        let call = Call { method: incoming.method, path: incoming.target, body: incoming.body, token: "" };
        let now = self.clock.seconds();
        let mut name = |claims: &Claims| {
            entry.subject = Some(claims.subject.clone());
            entry.token = claims.id_text().parse().ok();
        };
        // The signatures are checked before the lock is taken: who forges them keeps nobody waiting.
        let verified = self
            .verifier
            .check_call(incoming.authorization, incoming.proof, call, now)
            .and_then(|(claims, proof)| self.replay().accept(&proof, now).map(|()| claims));
        match verified {
            Ok(claims) => {
                name(&claims);
                entry.trusted = true;
                Ok(claims)
            }
            Err(refusal) => {
                // Whose token it was, if it is a token of this system at all: who sent it is not known.
                let token = incoming.authorization.and_then(|value| value.split_once(' '));
                token.and_then(|(_, token)| self.verifier.open(token).ok()).iter().for_each(name);
                Err(refusal.into())
            }
        }
    }

    fn replay(&self) -> MutexGuard<'_, ReplaySet> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a refusal; gives what the caller is told.
    fn refuse(&self, entry: Entry, refusal: Refusal) -> Refusal {
        let record = Entry { kind: RecordKind::Refusal, code: refusal.log_code(), ..entry };
        match self.log.append(record) {
            Ok(_) => refusal,
            Err(error) => error.into(),
        }
    }

    /// Logs what did not come as far as the door: a failed handshake, a request that is no HTTP.
    pub fn incident(&self, incident: &service::Incident) -> Result<u64, LogError> {
        let mut entry = Entry::event(incident.code, &incident.detail);
        entry.kind = RecordKind::Refusal;
        entry.peer = peer_address(incident.address);
        self.log.append(entry)
    }
}

/// From when on no proof can be one that a run took whose latest record is of `resumed`, in Unix seconds:
/// each proof that led to an act is older than the record of it, or ahead of it by [`PROOF_AHEAD`] at most.
pub fn opens(resumed: Duration) -> u64 {
    resumed.as_secs().saturating_add(PROOF_AHEAD + 1)
}

fn peer_address(address: SocketAddr) -> Option<PeerAddress> {
    address.to_string().parse().ok()
}

/// The door as HTTP handlers.
pub fn router(door: Arc<Door>) -> Router {
    // One handler for every path: the table of operations is the only routing there is.
    Router::new().route("/", any(enter)).route("/{*path}", any(enter)).with_state(door)
}

async fn enter(State(door): State<Arc<Door>>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY + 1).await;
    let handled = tokio::task::spawn_blocking(move || {
        // A body that is too long is as malformed as one byte more than the longest.
        let body = body.unwrap_or_else(|_| Bytes::from(vec![0; MAX_BODY + 1]));
        handle(&door, &parts, &body)
    });
    match handled.await {
        Ok(Ok(answer)) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
        Ok(Err(refusal)) => refusal.into_response(),
        Err(_) => Refusal::of("internal").into_response(),
    }
}

fn handle(door: &Door, parts: &Parts, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    door.handle(&Incoming {
        method: parts.method.as_str(),
        target,
        authorization: header(&parts.headers, TOKEN_HEADER),
        proof: header(&parts.headers, PROOF_HEADER),
        body,
        peer: parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
    })
}

/// The value of a header that is there exactly once.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
