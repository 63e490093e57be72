use crate::{
    By, Entry, Issuer, Kind, Page, Refusal, Standing,
    client::{
        ACKNOWLEDGED, APPRAISED, Acknowledged, Appraised, HOSTS, ISSUED, KEYS, KeySets, Known, ROTATE, SETS,
        TOKENS, TokenAnswer, TokenRequest,
    },
    journal::kept,
    keyring::KeyringError,
    time,
};
use axum::{
    Extension, Router,
    extract::{Query, State},
    http::{HeaderMap, header::AUTHORIZATION},
    routing::{get, post},
};
use ids::Identity;
use serde::Deserialize;
use service::{Error, Incident, Json, Peer};
use std::{sync::Arc, thread, time::Duration};
use token::Keys;
use tokio::task::spawn_blocking;

/// Who reads the journal.
const AUDIT: &str = "azote:service/audit";
/// Who rolls out keys, and appraises hosts.
const PIPELINE: &str = "azote:service/pipeline";

type Shared = State<Arc<Issuer>>;

/// The service's calls.
pub fn router(issuer: Arc<Issuer>) -> Router {
    Router::new()
        .route(TOKENS, post(issue))
        .route(KEYS, get(keys))
        .route(SETS, get(sets))
        .route(ROTATE, post(rotate))
        .route(ISSUED, get(issued))
        .route(ACKNOWLEDGED, post(acknowledged))
        .route(HOSTS, get(hosts))
        .route(APPRAISED, post(appraised))
        .with_state(issuer)
}

/// Writes down what did not come as far as a decision. For a thread that may block.
pub fn watch(issuer: &Issuer, incident: &Incident) {
    let detail = kept(&format!("{} {}", incident.address, incident.detail));
    let entry = Entry {
        subject: incident.peer.clone(),
        by: incident.peer.as_ref().map(|_| By::Certificate),
        code: Some(incident.code.to_owned()),
        detail: Some(detail),
        ..Entry::new(Kind::Incident)
    };
    if let Err(error) = issuer.recorder.refuse_blocking(incident.peer.is_some(), entry) {
        tracing::warn!(%error, "an incident is not in the journal");
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), refusal.code(), refusal.to_string())
    }
}

async fn issue(
    State(issuer): Shared,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenAnswer>, Error> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(Error::internal)?;
    let peer = peer.map(|Extension(Peer(peer))| peer);
    Ok(Json(issuer.issue(peer, authorization(&headers), &request, id, time::seconds()).await?))
}

/// The header's value, if it is there. What is there twice, or is no text, is no ID token.
fn authorization(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let one = values.next()?.to_str().ok().filter(|_| values.next().is_none());
    Some(one.unwrap_or_default())
}

async fn keys(State(issuer): Shared, Peer(caller): Peer) -> Result<Json<Keys>, Error> {
    tracing::info!(%caller, "gave the public keys");
    issuer.keyring.keys().map(Json).ok_or_else(|| Error::internal("no key"))
}

async fn sets(State(issuer): Shared, Peer(caller): Peer) -> Result<Json<KeySets>, Error> {
    tracing::info!(%caller, "gave the signed key sets");
    let ring = issuer.keyring.ring();
    let sets = blocking(move || issuer.recorder.sets()).await?.map_err(Error::internal)?;
    Ok(Json(KeySets::new(&ring, &sets)))
}

async fn rotate(State(issuer): Shared, Peer(caller): Peer) -> Result<Json<KeySets>, Error> {
    only(&issuer, &caller, PIPELINE).await?;
    let rotating = issuer.clone();
    let rotated = blocking(move || {
        let ring = rotating.keyring.rotate(time::seconds())?;
        Ok::<_, KeyringError>((ring, rotating.recorder.sets()?))
    });
    match rotated.await? {
        Ok((ring, sets)) => Ok(Json(KeySets::new(&ring, &sets))),
        Err(KeyringError::UnderWay(until)) => Err(Error::new(409, "keys.under-way", until.to_string())),
        Err(KeyringError::Ledger(refused)) => Err(Refusal::from(refused).into()),
        Err(error) => Err(Error::internal(error)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn issued(
    State(issuer): Shared,
    Peer(caller): Peer,
    query: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page>, Error> {
    only(&issuer, &caller, AUDIT).await?;
    let Query(After { after }) = query.map_err(|_| Error::malformed("want ?after=N"))?;
    let page = blocking(move || issuer.recorder.page(after)).await?;
    page.map(Json).map_err(Error::internal)
}

async fn acknowledged(
    State(issuer): Shared,
    Peer(caller): Peer,
    Json(Acknowledged { up_to }): Json<Acknowledged>,
) -> Result<Json<Acknowledged>, Error> {
    only(&issuer, &caller, AUDIT).await?;
    let up_to = issuer.recorder.acknowledge(up_to).await.map_err(Refusal::from)?;
    Ok(Json(Acknowledged { up_to }))
}

async fn hosts(State(issuer): Shared, Peer(caller): Peer) -> Result<Json<Vec<Known>>, Error> {
    only(&issuer, &caller, PIPELINE).await?;
    let all = issuer.inventory.all(time::seconds()).into_iter();
    Ok(Json(all.map(|(host, facts, found)| Known { host, facts, found }).collect()))
}

async fn appraised(
    State(issuer): Shared,
    Peer(caller): Peer,
    Json(Appraised { host, found }): Json<Appraised>,
) -> Result<Json<Standing>, Error> {
    only(&issuer, &caller, PIPELINE).await?;
    Ok(Json(issuer.appraised(&caller, &host, found, time::seconds()).await?))
}

/// Writes down, as time goes by, which hosts nobody looks after: starts the thread that does. Some of them are alarms.
pub fn watch_hosts(issuer: &Arc<Issuer>, every: Duration) {
    let issuer = Arc::clone(issuer);
    thread::spawn(move || {
        loop {
            thread::sleep(every);
            issuer.tell_due(time::seconds());
        }
    });
}

/// Refuses everybody but one service, and writes that down.
async fn only(issuer: &Issuer, caller: &Identity, wanted: &'static str) -> Result<(), Error> {
    if caller.to_string() == wanted {
        return Ok(());
    }
    let entry =
        Entry { subject: Some(caller.clone()), by: Some(By::Certificate), ..Entry::new(Kind::Refused) };
    Err(issuer.refuse(entry, Refusal::Caller(wanted)).await.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(Error::internal)
}
