//! The calls over HTTP. Who reads must have the right to, and every read is an entry before it is answered;
//! so is every refusal, or it is counted in one ([`crate::throttle`]).

use crate::{
    book::Input,
    client::{
        ALARMS, ATTEMPTS, CHECKPOINT, CONSISTENCY, COSIGNATURES, COSIGNED, Cosigned, ENTRIES, INCLUSION,
        MAX_PAGE, MAX_WAIT, Numbered, Page, Proof, STATUS, SourceStatus, Status, Taken,
    },
    entry::{Observed, read_attempts},
    keeper::{Keeper, Unwritable},
    note::VerifierKey,
    store::{LogError, Snapshot},
    tile::{Tile, WIDTH},
    tree,
    witnesses::{Refused, Witnesses},
};
use axum::{
    Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::Uri,
    routing::{get, post},
};
use ids::Identity;
use rights::Rights;
use serde_json::value::RawValue;
use service::{Error, Json, Peer};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Longest answer with entries, in bytes: they come in fewer at a time if they are long.
const MAX_ANSWER: usize = service::MAX_ANSWER / 2;

/// What the calls need.
pub struct Audit {
    /// The way to the log.
    pub keeper: Keeper,
    /// Who may read.
    pub rights: Rights,
    /// The log's public key.
    pub key: VerifierKey,
    /// Witnesses' signatures.
    pub witnesses: Mutex<Witnesses>,
}

type Shared = State<Arc<Audit>>;

/// The service's calls.
pub fn router(audit: Audit) -> Router {
    Router::new()
        .route(CHECKPOINT, get(checkpoint))
        .route(COSIGNED, get(cosigned))
        .route("/tile/{*rest}", get(tile))
        .route(ENTRIES, get(entries))
        .route(ALARMS, get(alarms))
        .route(INCLUSION, get(inclusion))
        .route(CONSISTENCY, get(consistency))
        .route(STATUS, get(status))
        .route(COSIGNATURES, post(cosignatures))
        .route(ATTEMPTS, post(attempts))
        .with_state(Arc::new(audit))
}

impl From<Unwritable> for Error {
    fn from(error: Unwritable) -> Self {
        Self::new(503, "audit.unavailable", error.to_string())
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        Self::internal(error)
    }
}

impl Audit {
    /// Lets a reader in, and writes down what is read.
    async fn reads(&self, reader: &Identity, what: &str) -> Result<Arc<Snapshot>, Error> {
        let decided = self.rights.decide_reader(reader);
        let refused = decided.as_ref().err().map(rights::Refusal::code);
        let observed = Box::new(Observed::read(reader, what, refused));
        let input = if refused.is_some() { Input::Refused(observed) } else { Input::Observed(observed) };
        self.keeper.take(input).await?;
        match decided {
            Ok(()) => Ok(self.keeper.snapshot()),
            Err(refusal) => Err(Error::new(403, refusal.code(), refusal.to_string())),
        }
    }

    fn witnesses(&self) -> std::sync::MutexGuard<'_, Witnesses> {
        // What it holds is whole at any time.
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads whole numbers from a query: each name at most once, no others.
fn numbers<const N: usize>(query: Option<&str>, names: [&str; N]) -> Result<[Option<u64>; N], Error> {
    let mut values = [None; N];
    let bad = || Error::malformed(format!("the query takes whole numbers: {}", names.join(", ")));
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let at = names.iter().position(|known| *known == name).ok_or_else(bad)?;
        let slot = values.get_mut(at).filter(|slot| slot.is_none()).ok_or_else(bad)?;
        *slot = Some(value.parse().map_err(|_| bad())?);
    }
    Ok(values)
}

/// Waits for the disk where others can.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}

async fn checkpoint(State(audit): Shared, Peer(reader): Peer) -> Result<Vec<u8>, Error> {
    let snapshot = audit.reads(&reader, "checkpoint").await?;
    let witnesses = audit.witnesses();
    let cosigned = witnesses.latest().filter(|(checkpoint, _)| *checkpoint == snapshot.checkpoint);
    Ok(cosigned.map_or(&snapshot.note, |(_, note)| note).as_bytes().to_vec())
}

async fn cosigned(State(audit): Shared, Peer(reader): Peer) -> Result<Vec<u8>, Error> {
    audit.reads(&reader, "checkpoint/cosigned").await?;
    let none = || Error::new(404, "audit.not-cosigned", "no witness has signed a checkpoint yet");
    audit.witnesses().latest().map(|(_, note)| note.as_bytes().to_vec()).ok_or_else(none)
}

async fn tile(State(audit): Shared, Peer(reader): Peer, uri: Uri) -> Result<Vec<u8>, Error> {
    let none =
        || Error::new(404, "audit.no-tile", "the log has no such tile: ask for those of its checkpoint");
    let tile = uri.path().strip_prefix('/').and_then(Tile::parse).ok_or_else(none)?;
    let snapshot = audit.reads(&reader, &tile.to_string()).await?;
    blocking(move || snapshot.tile(&tile)).await?.ok_or_else(none)
}

async fn entries(
    State(audit): Shared,
    Peer(reader): Peer,
    RawQuery(query): RawQuery,
) -> Result<Json<Page>, Error> {
    let [after, wait] = numbers(query.as_deref(), ["after", "wait"])?;
    let (after, wait) = (after.unwrap_or(0), Duration::from_secs(wait.unwrap_or(0).min(MAX_WAIT)));
    let mut snapshot = audit.reads(&reader, &format!("entries after {after}")).await?;
    if !wait.is_zero() {
        let mut keeper = audit.keeper.clone();
        if let Ok(news) = tokio::time::timeout(wait, keeper.news(after)).await {
            news?;
        }
        snapshot = audit.keeper.snapshot();
    }
    Ok(Json(blocking(move || page(&snapshot, after..snapshot.size())).await?))
}

async fn alarms(
    State(audit): Shared,
    Peer(reader): Peer,
    RawQuery(query): RawQuery,
) -> Result<Json<Page>, Error> {
    let [after] = numbers(query.as_deref(), ["after"])?;
    let after = after.unwrap_or(0);
    audit.reads(&reader, &format!("alarms after {after}")).await?;
    let look = move |book: &crate::book::Book| {
        book.alarms().iter().copied().filter(|index| *index >= after).collect::<Vec<_>>()
    };
    let indices = audit.keeper.look(look).await?;
    let snapshot = audit.keeper.snapshot();
    Ok(Json(blocking(move || page(&snapshot, indices.into_iter())).await?))
}

fn page(snapshot: &Snapshot, indices: impl Iterator<Item = u64>) -> Result<Page, LogError> {
    let mut page = Page { entries: Vec::new(), size: snapshot.size() };
    let (mut bundle, mut lines, mut length) = (None, Vec::new(), 0);
    for index in indices.take(MAX_PAGE) {
        if bundle != Some(index / WIDTH) {
            bundle = Some(index / WIDTH);
            lines = snapshot.entries(index / WIDTH)?;
        }
        let damaged = || LogError::Damaged(format!("entry {index}"));
        let at = usize::try_from(index % WIDTH).map_err(|_| damaged())?;
        let line = lines.get(at).and_then(|line| String::from_utf8(line.clone()).ok()).ok_or_else(damaged)?;
        length += line.len();
        if length > MAX_ANSWER {
            break;
        }
        page.entries.push(Numbered { index, entry: RawValue::from_string(line).map_err(|_| damaged())? });
    }
    Ok(page)
}

async fn inclusion(
    State(audit): Shared,
    Peer(reader): Peer,
    RawQuery(query): RawQuery,
) -> Result<Json<Proof>, Error> {
    let [index, size] = numbers(query.as_deref(), ["index", "size"])?;
    let (index, size) = (index.unwrap_or(0), size.unwrap_or(0));
    let snapshot = audit.reads(&reader, &format!("inclusion of {index} in {size}")).await?;
    if index >= size || size > snapshot.size() {
        return Err(Error::malformed("the log has no such entry: give index < size <= the checkpoint's"));
    }
    Ok(Json(Proof::new(&blocking(move || tree::inclusion(&mut &*snapshot, index, size)).await?)))
}

async fn consistency(
    State(audit): Shared,
    Peer(reader): Peer,
    RawQuery(query): RawQuery,
) -> Result<Json<Proof>, Error> {
    let [old, size] = numbers(query.as_deref(), ["old", "size"])?;
    let (old, size) = (old.unwrap_or(0), size.unwrap_or(0));
    let snapshot = audit.reads(&reader, &format!("consistency of {old} with {size}")).await?;
    if old > size || size > snapshot.size() {
        return Err(Error::malformed("the log was never so: give old <= size <= the checkpoint's"));
    }
    Ok(Json(Proof::new(&blocking(move || tree::consistency(&mut &*snapshot, old, size)).await?)))
}

async fn status(State(audit): Shared, Peer(reader): Peer) -> Result<Json<Status>, Error> {
    let snapshot = audit.reads(&reader, "status").await?;
    let (sources, open) = audit.keeper.look(|book| (sources(book), book.open() as u64)).await?;
    let witnesses = audit.witnesses();
    Ok(Json(Status {
        key: audit.key.to_string(),
        size: snapshot.size(),
        sources,
        open,
        witnesses: witnesses.keys().iter().map(ToString::to_string).collect(),
        cosigned: witnesses.latest().map(|(checkpoint, _)| checkpoint.size),
    }))
}

fn sources(book: &crate::book::Book) -> Vec<SourceStatus> {
    let hosts = book.hosts().map(|(host, seq, code)| SourceStatus {
        source: format!("host/{host}"),
        seq,
        code: code.map(str::to_owned),
    });
    let code = book.journal_trouble().map(str::to_owned);
    let journal = SourceStatus { source: "tokens".to_owned(), seq: book.journal(), code };
    [journal].into_iter().chain(hosts).collect()
}

async fn cosignatures(
    State(audit): Shared,
    Peer(bringer): Peer,
    Json(cosigned): Json<Cosigned>,
) -> Result<Json<Taken>, Error> {
    let shared = audit.clone();
    let take = move || shared.witnesses().take(&shared.key, &cosigned.note);
    let taken = tokio::task::spawn_blocking(take).await.map_err(Error::internal)?;
    let input = match &taken {
        Err(Refused::File(error)) => return Err(Error::internal(error)),
        Err(refused) => {
            Input::Refused(Box::new(Observed::read(&bringer, "cosignature", Some(refused.code()))))
        }
        Ok(names) if names.is_empty() => return Ok(Json(Taken { taken: 0 })),
        Ok(names) => {
            let event = Observed::event("audit.cosigned", &names.join(" "));
            Input::Observed(Box::new(Observed { subject: Some(bringer), ..event }))
        }
    };
    audit.keeper.take(input).await?;
    let taken = taken.map_err(|refused| Error::new(403, refused.code(), refused.to_string()))?;
    Ok(Json(Taken { taken: taken.len() as u64 }))
}

async fn attempts(State(audit): Shared, Peer(caller): Peer, body: Bytes) -> Result<Json<Taken>, Error> {
    let attempts = read_attempts(&body).map_err(|error| Error::malformed(error.to_string()))?;
    let taken = attempts.len() as u64;
    let calls = matches!(caller, Identity::Operator(_) | Identity::Service(_));
    if !calls || attempts.iter().any(|attempt| attempt.caller != caller) {
        let observed = Observed::read(&caller, "attempts of somebody else", Some("attempts.caller"));
        audit.keeper.take(Input::Refused(Box::new(observed))).await?;
        return Err(Error::new(
            403,
            "attempts.caller",
            "tell of your own attempts only; tenants and hosts make none",
        ));
    }
    audit.keeper.take(Input::Attempts(attempts)).await?;
    Ok(Json(Taken { taken }))
}
