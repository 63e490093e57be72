//! The only door: authenticate, authorise, log the intent, act, log the outcome. In this order, always; what
//! cannot be logged is not done, and every refusal is logged before it is told. Of a call that only observes, the act is
//! to tell: intent and outcome are logged in one, before it is told.

use crate::{
    Refusal,
    clock::Clock,
    history::History,
    host::Host,
    limits::Limits,
    log::{Entry, LogError, Outcome, Writer},
    settings::Trust,
};
use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{ConnectInfo, State},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use decision::{
    Charge,
    admission::{Admission, Answer, Asked, Event, Gate, Record, Step},
};
use host_api::{Api, Effect, MAX_BODY, PeerAddress, RecordKind, Request};
use service::Service;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use token::{Call, Claims, PROOF_AHEAD, PROOF_HEADER, ProofId, ReplaySet, TOKEN_HEADER};
use tokio::runtime::Handle;

/// Most proofs of possession that the host remembers: as many requests in the minute for which a proof is
/// fresh.
const PROOFS: usize = 65_536;

/// Most tokens whose uses the host counts.
const TOKENS: usize = 65_536;

/// Threads that serve connections: so many records can become durable together.
const LANES: usize = 64;

/// The door.
pub struct Door {
    host: Arc<Host>,
    log: Writer,
    trust: Trust,
    replay: Mutex<ReplaySet>,
    counted: Mutex<Counted>,
    clock: Clock,
}

/// What calls use up.
struct Counted {
    gate: Gate,
    limits: Limits,
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
    /// A door into `host`. Proofs made before `opened` (Unix seconds, see [`opens`]) are refused: an earlier run may
    /// have taken them. What earlier runs used up stays used up.
    pub fn new(
        host: Arc<Host>,
        log: Writer,
        clock: Clock,
        opened: u64,
        mut limits: Limits,
        past: &History,
    ) -> Self {
        let replay = Mutex::new(ReplaySet::new(PROOFS, opened));
        let gate = past.restart(TOKENS, &mut limits);
        Self { trust: host.trust(), host, log, replay, counted: Mutex::new(Counted { gate, limits }), clock }
    }

    /// Handles one request; gives the JSON text of the answer. In which order things happen is for
    /// [`decision::admission`] to say: here they are done.
    pub fn handle(&self, incoming: &Incoming<'_>) -> Result<Vec<u8>, Refusal> {
        let mut entry =
            Entry { peer: incoming.peer.and_then(peer_address), ..Entry::new(RecordKind::Intent) };
        let (request, asked) = match self.check(incoming, &mut entry) {
            Ok((request, asked)) => (Some(request), Ok(asked)),
            Err(refusal) => {
                let proof = incoming.proof.and_then(ProofId::peek);
                entry.request = entry.request.or_else(|| proof?.id_text().parse().ok());
                (None, Err(refusal))
            }
        };
        let (mut admission, mut step) = self.admit(entry.api, asked);
        let (mut intent, mut done) = (None, Vec::new());
        loop {
            let event = match step {
                Step::Write(record) => self.write(&entry, &record, &mut intent),
                // What only observes has no other effect than its answer, which nobody is told yet.
                Step::Act | Step::Observe => {
                    let act = request.as_ref().ok_or_else(|| Refusal::of("internal"));
                    Event::Acted(
                        act.and_then(|act| self.host.act(act, entry.subject.as_ref()))
                            .map(|answer| done = answer),
                    )
                }
                Step::Answer(Answer::Done) => return Ok(done),
                Step::Answer(Answer::Refused(refusal)) => return Err(refusal),
                Step::Answer(Answer::Unlogged) => return Err(Refusal::of("log.unavailable")),
            };
            (admission, step) = admission.next(event);
        }
    }

    /// Checks everything that can be checked without touching the host. Fills `entry` with what is known
    /// of the request so far.
    fn check(&self, incoming: &Incoming<'_>, entry: &mut Entry) -> Result<(Request, Asked), Refusal> {
        let (path, query) = match incoming.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (incoming.target, None),
        };
        let api = Api::find(incoming.method, path).ok_or_else(|| Refusal::of("request.unknown"))?;
        entry.api = Some(api);
        let claims = self.authenticate(incoming, entry)?;
        let request = Request::parse(api, query, incoming.body)?;
        entry.resources = request.resources(self.host.id());
        entry.detail = request.detail();
        claims.authorize(api, &entry.resources)?;
        if api.effect() == Effect::Change && self.clock.ahead() {
            return Err(Refusal::of("clock.ahead"));
        }
        self.host.admits(&request)?;
        let charge = Charge { used: 0, cost: 1, limit: claims.uses.into() };
        let call = decision::Call {
            times: claims.times(self.clock.seconds()),
            audience: claims.audience == *self.host.id(),
            // Those two hold, or the caller would not have been authenticated.
            holder: true,
            fresh: true,
            operation: claims.names(api),
            resource: claims.names_all(&entry.resources),
            // No operation has a request or an answer that customer content could be in.
            content: false,
            recorded: false,
            charge,
        };
        Ok((request, Asked { token: claims.id, call, observes: api.effect() == Effect::Observe }))
    }

    fn authenticate(&self, incoming: &Incoming<'_>, entry: &mut Entry) -> Result<Claims, Refusal> {
        let call = Call { method: incoming.method, path: incoming.target, body: incoming.body, token: "" };
        let now = self.clock.seconds();
        let mut name = |claims: &Claims| {
            entry.subject = Some(claims.subject.clone());
            entry.token = claims.id_text().parse().ok();
        };
        let verifier = self.trust.read().unwrap_or_else(PoisonError::into_inner);
        // The signatures are checked before the lock is taken: who forges them keeps nobody waiting.
        let verified = verifier
            .check_call(incoming.authorization, incoming.proof, call, now)
            .and_then(|(claims, proof)| self.replay().accept(&proof, now).map(|()| (claims, proof)));
        match verified {
            Ok((claims, proof)) => {
                name(&claims);
                entry.request = proof.id_text().parse().ok();
                entry.trusted = true;
                Ok(claims)
            }
            Err(refusal) => {
                // Whose token it was, if it is a token of this system at all: who sent it is not known.
                let token = incoming.authorization.and_then(|value| value.split_once(' '));
                token.and_then(|(_, token)| verifier.open(token).ok()).iter().for_each(name);
                Err(refusal.into())
            }
        }
    }

    /// Decides, one call after the other.
    fn admit(&self, api: Option<Api>, asked: Result<Asked, Refusal>) -> (Admission<Refusal>, Step<Refusal>) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = asked.and_then(|asked| {
            let api = api.ok_or_else(|| Refusal::of("internal"))?;
            Ok((asked, counted.limits.take(api, asked.call.times.now)?))
        });
        let (asked, taken) = match taken {
            Ok((asked, taken)) => (Ok(asked), Some(taken)),
            Err(refusal) => (Err(refusal), None),
        };
        let (admission, step) = counted.gate.admit(asked);
        if let (Step::Write(Record::Intent) | Step::Observe, Some(taken)) = (&step, taken) {
            counted.limits.put(taken);
        }
        (admission, step)
    }

    /// Makes a record durable.
    fn write(&self, entry: &Entry, record: &Record<Refusal>, intent: &mut Option<u64>) -> Event<Refusal> {
        let code = |result: &Result<(), Refusal>| result.as_ref().err().and_then(Refusal::log_code);
        let (kind, code, outcome) = match record {
            Record::Intent => (RecordKind::Intent, None, None),
            Record::Refusal(refusal) => (RecordKind::Refusal, refusal.log_code(), None),
            Record::Outcome(result) => (RecordKind::Outcome, code(result), None),
            Record::Observation(result) => (RecordKind::Intent, None, Some(Outcome { code: code(result) })),
        };
        match self.log.append(Entry { kind, code, intent: *intent, outcome, ..entry.clone() }) {
            Ok(seq) => {
                *intent = Some(seq);
                Event::Durable
            }
            Err(_) => Event::Unlogged,
        }
    }

    fn replay(&self) -> MutexGuard<'_, ReplaySet> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The door as a service: what does not come as far as its handlers is in the log too.
pub fn service(door: Arc<Door>, tls: rustls::ServerConfig) -> Service {
    let observer = Arc::clone(&door);
    Service {
        router: router(door),
        tls,
        limits: service::Limits { body_size: MAX_BODY, lanes: LANES, ..service::Limits::default() },
        observer: Arc::new(move |incident| {
            if let Err(error) = observer.incident(&incident) {
                tracing::error!(%error, code = incident.code, "an incident is not in the log");
            }
        }),
    }
}

/// The door as HTTP handlers. What may take long runs on the threads of the present runtime that may block.
fn router(door: Arc<Door>) -> Router {
    // One handler for every path: the table of operations is the only routing there is.
    let state = (door, Handle::current());
    Router::new().route("/", any(enter)).route("/{*path}", any(enter)).with_state(state)
}

async fn enter(State((door, home)): State<(Arc<Door>, Handle)>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    // A body that is too long is as malformed as one byte more than the longest.
    let body = to_bytes(body, MAX_BODY + 1).await.unwrap_or_else(|_| Bytes::from(vec![0; MAX_BODY + 1]));
    let handled = match Api::find(parts.method.as_str(), parts.uri.path()) {
        // They wait for nothing but the log: to hand them over would take as long again.
        None | Some(Api::ReadLog) => Ok(handle(&door, &parts, &body)),
        Some(_) => home.spawn_blocking(move || handle(&door, &parts, &body)).await,
    };
    match handled {
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
