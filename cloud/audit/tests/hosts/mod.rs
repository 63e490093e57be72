//! A host that can lie about its log, and a token service that issues what is asked: servers of the real protocol, with
//! certificates of the environment, in the test's own process.

use super::house::{DAY, House};
use axum::{
    Router,
    extract::RawQuery,
    routing::{get, post},
};
use host_api::{GENESIS, LogHead, LogPage, LogRecord, Sha256};
use ids::{HostId, Identity};
use service::{Callers, Credentials, Json, Key, Limits, Service, bind, serve, server_config};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use token::PublicKey;

/// Records, and the hash after each.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) records: Vec<LogRecord>,
    pub(crate) hashes: Vec<[u8; 32]>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { records: Vec::new(), hashes: vec![GENESIS] }
    }

    pub(crate) fn push(&mut self, code: &str, request: Option<&str>) {
        let kind = if request.is_some() { "intent" } else { "event" };
        let api = request.map(|_| "HostStatus");
        let subject = request.map(|_| "azote:operator/alice");
        let record: LogRecord = serde_json::from_value(serde_json::json!({
            "seq": self.records.len() + 1, "time": "2026-01-02T03:04:05Z", "kind": kind, "api": api, "subject": subject,
            "request": request, "code": code, "prev": Sha256::from_digest(self.hashes.last().unwrap()),
        }))
        .unwrap();
        self.hashes.push(LogRecord::hash_of(record.line().as_bytes()));
        self.records.push(record);
    }

    fn page(&self, after: usize, key: &Key) -> LogPage {
        let head = |at: usize| LogHead::sign(at as u64, &self.hashes[at], key.pair());
        let last = self.records.len();
        let records = self.records.get(after..).unwrap_or_default().to_vec();
        LogPage { records, last: last as u64, base: head(0), head: head(last) }
    }
}

pub(crate) struct Hosts {
    pub(crate) host: HostId,
    pub(crate) log: Arc<Mutex<Log>>,
    /// The file of sources.
    pub(crate) sources: String,
}

async fn listen(house: &House, name: &Identity, key: &Key, router: Router) -> SocketAddr {
    let chain = house.ca.issue(&key.request().unwrap(), name, true, DAY).unwrap();
    let me = Credentials::new(&chain, Key::from_seed(key.seed()).unwrap()).unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
    let address = listener.local_addr().unwrap();
    let tls = server_config(&me, Callers::Anyone).unwrap();
    let service = Service { router, tls, limits: Limits::default(), observer: Arc::new(|_| ()) };
    tokio::spawn(serve(listener, service, std::future::pending()));
    address
}

impl Hosts {
    pub(crate) async fn start(house: &House) -> Self {
        let (host, key) = (HostId::from_random(1), Key::generate().unwrap());
        let log = Arc::new(Mutex::new(Log::new()));
        let (shown, signer) = (log.clone(), Arc::new(Key::from_seed(key.seed()).unwrap()));
        let page = move |RawQuery(query): RawQuery| async move {
            let after = query.unwrap().strip_prefix("after=").unwrap().parse().unwrap();
            Json(shown.lock().unwrap().page(after, &signer))
        };
        let done = || async { Json(serde_json::json!({})) };
        let router = Router::new().route("/v1/log", get(page)).route("/v1/log/acknowledge", post(done));
        let door = listen(house, &Identity::Host(host.clone()), &key, router).await;
        let answer = tokens::client::TokenAnswer { token: "t".to_owned(), expires: u64::MAX, uses: 1000 };
        let issue = move || async move { Json(answer) };
        let journal = || async { Json(tokens::Page { entries: Vec::new(), last: 0 }) };
        let router = Router::new().route("/v1/tokens", post(issue)).route("/v1/issued", get(journal));
        let name = "azote:service/tokens".parse().unwrap();
        let tokens = listen(house, &name, &Key::generate().unwrap(), router).await;
        let public = String::from(PublicKey(key.public()));
        let sources = format!("tokens {tokens}\nhost/{host} {door} {public}\n");
        Self { host, log, sources }
    }
}
