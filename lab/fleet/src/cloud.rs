//! The token service and the audit service in this process, behind their own calls.

use audit::{
    api::Audit,
    book::Book,
    keeper::{Keeper, Thread},
    note::{Purpose, Signer},
    pull::origin,
    store::Log,
    witnesses::Witnesses,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use ids::{HostId, Identity};
use monitor::{Alarm, Monitor, Rules};
use rights::{Attestation, Environment, HostFacts, Rights};
use serde::{Serialize, de::DeserializeOwned};
use service::{Key, Peer};
use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc, sync::Mutex};
use token::Keys;
use tokens::{Inventory, Issuer, Opened, Prepared, Schedule, WRAPPING_KEY};
use tokio::sync::mpsc;
use tower::ServiceExt;

/// A source that is not heard for so long is silent, in milliseconds: longer than any round takes.
const SILENCE: u64 = 3_600_000;
/// How long the other side of a call may take, in milliseconds: nothing is judged before the round's end.
const GRACE: u64 = 1;
const JOURNAL: u64 = 1_000_000;

pub(crate) struct Cloud {
    tokens: Router,
    audit: Router,
    pub(crate) keys: Keys,
    pub(crate) keeper: Keeper,
    pub(crate) alarms: mpsc::UnboundedReceiver<Alarm>,
    thread: Thread,
}

impl Cloud {
    /// Starts both with new state in a folder.
    pub(crate) async fn start(folder: &Path, hosts: &[HostId]) -> Result<Self, Box<dyn Error>> {
        let tokens = tokens::router(Arc::new(issuer(folder, hosts)?));
        let pipeline = "azote:service/pipeline".parse()?;
        let keys = call(tokens.clone(), &pipeline, "GET", "/v1/keys", None::<&()>).await?;
        let key = Key::generate()?;
        let signer = Signer::new(&origin(&key.public()), Purpose::Log, key)?;
        let public = signer.public().clone();
        let log = Log::open(&folder.join("log"), signer)?;
        let witnesses = Mutex::new(Witnesses::open(folder, &public, 0, Vec::new())?);
        let book = Book::new(Monitor::new(Rules::embedded()?), GRACE, SILENCE);
        let (tell, alarms) = mpsc::unbounded_channel();
        let thread = Thread::start(log, book, folder, tell)?;
        let keeper = thread.keeper();
        let audit = Audit { keeper: keeper.clone(), rights: Rights::embedded()?, key: public, witnesses };
        Ok(Self { tokens, audit: audit::api::router(audit), keys, keeper, alarms, thread })
    }

    /// Calls the token service.
    pub(crate) fn tokens(&self) -> Router {
        self.tokens.clone()
    }

    /// Calls the audit service.
    pub(crate) fn audit(&self) -> Router {
        self.audit.clone()
    }

    /// Ends the thread that writes the audit log.
    pub(crate) async fn stop(self) -> Result<(), Box<dyn Error>> {
        Ok(tokio::task::spawn_blocking(|| self.thread.stop()).await?)
    }
}

fn issuer(folder: &Path, hosts: &[HostId]) -> Result<Issuer, Box<dyn Error>> {
    let facts = HostFacts {
        fleet: "lab".parse()?,
        environment: Environment::Lab,
        attestation: Attestation::Passed,
        drained: false,
    };
    let inventory: BTreeMap<_, _> = hosts.iter().map(|host| (host.clone(), facts.clone())).collect();
    let mut wrapping = [0; WRAPPING_KEY];
    aws_lc_rs::rand::fill(&mut wrapping)?;
    let mut store = Opened::open(&folder.join("tokens.redb"), JOURNAL)?;
    let keys = Prepared::open(&mut store, &wrapping)?;
    let recorder = store.start();
    let schedule = Schedule { overlap: 600, rotate_after: None, life: 4 * 3600 };
    let keyring = keys.start(recorder.clone(), schedule);
    let (name, rights) = ("azote:service/tokens".parse()?, Rights::embedded()?);
    Ok(Issuer { name, rights, inventory: Inventory::new(inventory), oidc: None, recorder, keyring })
}

/// One call by `caller`, as the server would hand it over after TLS.
pub(crate) async fn call<T: DeserializeOwned>(
    service: Router,
    caller: &Identity,
    method: &str,
    target: &str,
    body: Option<&impl Serialize>,
) -> Result<T, String> {
    let body = body.map(serde_json::to_vec).transpose().map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(CONTENT_TYPE, "application/json")
        .extension(Peer(caller.clone()))
        .body(Body::from(body.unwrap_or_default()))
        .map_err(|error| error.to_string())?;
    let Ok(response) = service.oneshot(request).await;
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.map_err(|error| error.to_string())?;
    if status != StatusCode::OK {
        return Err(format!("{target}: {status} {}", String::from_utf8_lossy(&bytes)));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("{target}: {error}"))
}
