//! A service and its callers over real sockets: who gets in, what is refused, and what is told.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use axum::{Router, routing::post};
use ids::Identity;
use pki::Ca;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use service::{
    CallError, Callers, Client, Credentials, Error, Incident, Json, Key, Limits, Peer, Service, bind,
    certified_by, serve, server_config,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const DAY: Duration = Duration::from_secs(86_400);
static FINISHED: AtomicU32 = AtomicU32::new(0);

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

struct House {
    _dir: TempDir,
    ca: Ca,
    address: SocketAddr,
    incidents: Arc<Mutex<Vec<Incident>>>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

fn limits() -> Limits {
    let short = Duration::from_millis(500);
    Limits {
        handshake: short,
        headers: short,
        body: short,
        body_size: 1000,
        answer: 4 * short,
        ..Limits::default()
    }
}

impl House {
    /// A service `azote:service/kms` that wants certificates.
    async fn open(limits: Limits) -> Self {
        Self::open_to(limits, |ca| Callers::Certified(ca)).await
    }

    async fn open_to(limits: Limits, callers: fn(&str) -> Callers<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path()).unwrap();
        let router = Router::new()
            .route(
                "/v1/who",
                post(|Peer(peer): Peer, Json(body): Json<Value>| async move { Json(json!([peer, body])) }),
            )
            .route("/v1/refuse", post(|| async { Error::new(403, "test.refused", "do something else") }))
            .route(
                "/v1/rant",
                post(|| async {
                    Error::new(403, "test.rant", "\u{1b}[2J\ninfo: all is well\n".repeat(9999))
                }),
            )
            .route(
                "/v1/slow",
                post(|| async {
                    sleep(Duration::from_millis(300)).await;
                    FINISHED.fetch_add(1, Ordering::SeqCst);
                    Json(true)
                }),
            )
            .route(
                "/v1/block",
                post(|| async {
                    std::thread::sleep(Duration::from_millis(1500));
                    Json(true)
                }),
            )
            .route("/v1/stuck", post(|| async { std::future::pending::<Json<bool>>().await }));
        let me = credentials(&ca, "azote:service/kms", true);
        let incidents = Arc::new(Mutex::new(Vec::new()));
        let told = incidents.clone();
        let service = Service {
            router,
            tls: server_config(&me, callers(ca.certificate())).unwrap(),
            limits,
            observer: Arc::new(move |incident| told.lock().unwrap().push(incident)),
        };
        let file = dir.path().join("address");
        let listener = bind("127.0.0.1:0".parse().unwrap(), Some(&file)).unwrap();
        let address = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            serve(listener, service, async move { drop(stopped.await) }).await.unwrap();
        });
        Self { _dir: dir, ca, address, incidents, stop: Some(stop), serving }
    }

    fn client(&self, server: &str, me: Option<&Credentials>) -> Client {
        Client::new(self.ca.certificate(), identity(server), self.address, me).unwrap()
    }

    fn acme(&self) -> Client {
        self.client("azote:service/kms", Some(&credentials(&self.ca, "azote:tenant/acme", false)))
    }

    fn codes(&self) -> Vec<&'static str> {
        self.incidents.lock().unwrap().iter().map(|incident| incident.code).collect()
    }

    async fn raw(&self) -> TlsStream<TcpStream> {
        self.raw_from(TcpStream::connect(self.address).await.unwrap()).await
    }

    async fn raw_from(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([pem(self.ca.certificate())]);
        let (me, key) = (Key::generate().unwrap(), identity("azote:tenant/acme"));
        let chain = self.ca.issue(&me.request().unwrap(), &key, false, DAY).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(me.pkcs8().to_vec());
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![pem(&chain)], key.into())
            .unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

fn pem(text: &str) -> rustls::pki_types::CertificateDer<'static> {
    rustls::pki_types::pem::PemObject::from_pem_slice(text.as_bytes()).unwrap()
}

fn credentials(ca: &Ca, name: &str, server: bool) -> Credentials {
    let key = Key::generate().unwrap();
    let chain = ca.issue(&key.request().unwrap(), &identity(name), server, DAY).unwrap();
    Credentials::new(&chain, key).unwrap()
}

async fn raw_answer(mut stream: TlsStream<TcpStream>, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, CallError>) -> String {
    answer.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn a_handler_that_blocks_its_lane_keeps_the_others_going() {
    let mut house = House::open(Limits { lanes: 2, ..limits() }).await;
    let (busy, other) = (house.acme(), house.acme());
    let busy = tokio::spawn(async move { busy.post::<_, bool>("/v1/block", &json!({})).await });
    sleep(Duration::from_millis(300)).await;
    let answer: Value = other.post("/v1/who", &json!(1)).await.unwrap();
    assert_eq!(answer, json!(["azote:tenant/acme", 1]));
    assert!(!busy.is_finished());
    house.stop.take().unwrap().send(()).unwrap();
    assert!(busy.await.unwrap().unwrap(), "a stop leaves time to what was begun");
    house.serving.await.unwrap();
}

#[tokio::test]
async fn a_caller_is_who_the_certificate_says() {
    let house = House::open(limits()).await;
    let answer: Value = house.acme().post("/v1/who", &json!({"a": 1})).await.unwrap();
    assert_eq!(answer, json!(["azote:tenant/acme", {"a": 1}]));
    let tls = house.raw().await;
    let (_, session) = tls.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert!(house.codes().is_empty());
}

#[tokio::test]
async fn strangers_are_turned_away_in_the_handshake_and_told() {
    let house = House::open(limits()).await;
    let nobody = house.client("azote:service/kms", None);
    assert_eq!(code(nobody.get::<Value>("/v1/who").await), "call.unreachable");
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::create(elsewhere.path()).unwrap();
    let stranger = credentials(&other, "azote:tenant/acme", false);
    let stranger = house.client("azote:service/kms", Some(&stranger));
    assert_eq!(code(stranger.get::<Value>("/v1/who").await), "call.unreachable");
    let plain = TcpStream::connect(house.address).await.unwrap();
    let mut plain = plain;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;
    let mut silent = TcpStream::connect(house.address).await.unwrap();
    let _ = silent.read_to_end(&mut Vec::new()).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while house.codes().len() < 4 && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(house.codes(), ["tls.handshake"; 4]);
}

#[tokio::test]
async fn a_door_for_everybody_knows_nobody() {
    let house = House::open_to(limits(), |_| Callers::Anyone).await;
    let nobody = house.client("azote:service/kms", None);
    assert_eq!(code(nobody.post::<_, Value>("/v1/refuse", &()).await), "test.refused");
    assert_eq!(code(nobody.post::<_, Value>("/v1/who", &1).await), "peer.missing");
    let acme = house.acme().post::<_, Value>("/v1/who", &1).await;
    assert_eq!(code(acme), "peer.missing", "a certificate that was not asked for is not looked at");
}

#[tokio::test]
async fn a_door_that_asks_for_certificates_knows_who_shows_one_and_lets_no_stranger_in() {
    let house = House::open_to(limits(), |ca| Callers::CertifiedOrNot(ca)).await;
    let nobody = house.client("azote:service/kms", None);
    assert_eq!(code(nobody.post::<_, Value>("/v1/refuse", &()).await), "test.refused");
    assert_eq!(code(nobody.post::<_, Value>("/v1/who", &1).await), "peer.missing");
    let acme: Value = house.acme().post("/v1/who", &1).await.unwrap();
    assert_eq!(acme, json!(["azote:tenant/acme", 1]));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::create(elsewhere.path()).unwrap();
    let stranger = credentials(&other, "azote:tenant/acme", false);
    let stranger = house.client("azote:service/kms", Some(&stranger));
    assert_eq!(code(stranger.post::<_, Value>("/v1/refuse", &()).await), "call.unreachable");
}

#[tokio::test]
async fn a_client_talks_only_to_the_server_that_it_means() {
    let house = House::open(limits()).await;
    let me = credentials(&house.ca, "azote:tenant/acme", false);
    let answer = house.client("azote:service/tokens", Some(&me)).get::<Value>("/v1/who").await;
    assert_eq!(code(answer), "call.unreachable");
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::create(elsewhere.path()).unwrap();
    let misled =
        Client::new(other.certificate(), identity("azote:service/kms"), house.address, Some(&me)).unwrap();
    assert_eq!(code(misled.get::<Value>("/v1/who").await), "call.unreachable");
}

#[tokio::test]
async fn requests_out_of_shape_are_refused_with_a_code_and_told() {
    let house = House::open(limits()).await;
    let acme = house.acme();
    assert_eq!(code(acme.post::<_, Value>("/v1/refuse", &()).await), "test.refused");
    assert_eq!(code(acme.get::<Value>("/v1/none").await), "request.unknown");
    assert_eq!(code(acme.get::<Value>("/v1/who").await), "request.unknown");
    let body = b"{\"a\":".to_vec();
    assert_eq!(code(acme.call::<Value>("POST", "/v1/who", body, &[]).await), "request.malformed");
    let long = json!("x".repeat(2000));
    assert_eq!(code(acme.post::<_, Value>("/v1/who", &long).await), "request.too-large");
    assert_eq!(code(acme.post::<_, Value>("/v1/stuck", &()).await), "service.slow");
    let answer = raw_answer(house.raw().await, b"\x00\x01\x02 nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let slow = b"POST /v1/who HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{";
    let answer = raw_answer(house.raw().await, slow).await;
    assert!(answer.contains("request.timeout"), "{answer}");
    let started = Instant::now();
    raw_answer(house.raw().await, b"POST /v1/who HTTP/1.1\r\nx-slow: ").await;
    assert!(started.elapsed() < Duration::from_secs(5), "slow headers are cut off");
    let told = house.codes();
    let expected = ["request.unknown", "request.unknown", "request.malformed", "request.too-large"];
    assert_eq!(told[..4], expected);
    assert_eq!(told[4..6], ["request.malformed", "request.timeout"]);
    let peers = house.incidents.lock().unwrap();
    assert!(peers.iter().all(|incident| incident.peer == Some(identity("azote:tenant/acme"))));
}

#[tokio::test]
async fn work_goes_on_when_the_caller_hangs_up_and_a_stop_waits_for_it() {
    let mut house = House::open(limits()).await;
    let before = FINISHED.load(Ordering::SeqCst);
    let mut stream = house.raw().await;
    stream.write_all(b"POST /v1/slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(stream);
    house.stop.take().unwrap().send(()).unwrap();
    (&mut house.serving).await.unwrap();
    assert_eq!(FINISHED.load(Ordering::SeqCst), before + 1);
    assert_eq!(code(house.acme().get::<Value>("/v1/who").await), "call.unreachable");
}

#[tokio::test]
async fn connections_are_bounded_and_waiting_ones_get_their_turn() {
    let house = House::open(Limits { connections: 2, ..limits() }).await;
    let idle = [house.raw().await, house.raw().await];
    let started = Instant::now();
    house.acme().post::<_, Value>("/v1/who", &1).await.unwrap();
    assert!(started.elapsed() > Duration::from_millis(200), "the third waited for an idle one to be cut off");
    drop(idle);
}

#[tokio::test]
async fn who_takes_every_connection_of_their_address_leaves_some_to_others() {
    let handshake = Duration::from_secs(20);
    let house = House::open(Limits { connections: 4, per_address: 2, handshake, ..limits() }).await;
    let elsewhere = async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(house.address).await.unwrap()
    };
    let held = [elsewhere().await, elsewhere().await];
    let mut third = elsewhere().await;
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "cut off");
    assert_eq!(house.codes(), ["tls.handshake"], "and told of");
    let started = Instant::now();
    house.acme().post::<_, Value>("/v1/who", &1).await.unwrap();
    assert!(started.elapsed() < handshake / 2, "others need not wait");
    drop(held);
    sleep(Duration::from_millis(100)).await;
    house.raw_from(elsewhere().await).await;
}

#[tokio::test]
async fn what_a_service_says_is_one_short_line() {
    let house = House::open(limits()).await;
    let refused = house.acme().post::<_, Value>("/v1/rant", &1).await.unwrap_err();
    assert_eq!(refused.code(), "test.rant");
    let said = refused.to_string();
    assert!(!said.contains(char::is_control) && said.len() < 1100, "{said:?}");
}

#[tokio::test]
async fn callers_who_hang_up_cannot_pile_up_work() {
    let house = House::open(Limits { connections: 1, ..limits() }).await;
    let mut stream = house.raw().await;
    stream.write_all(b"POST /v1/stuck HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(200)).await;
    drop(stream);
    let acme = house.acme();
    let next = tokio::time::timeout(Duration::from_secs(1), acme.post::<_, Value>("/v1/who", &1)).await;
    assert!(next.is_err(), "work that goes on keeps its caller's place");
}

#[test]
fn a_chain_is_checked_against_authority_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path()).unwrap();
    let key = Key::generate().unwrap();
    let name = identity("azote:host/h-0123456789abcdef0");
    let chain = ca.issue(&key.request().unwrap(), &name, true, DAY).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let certified = certified_by(ca.certificate(), &chain, now).unwrap();
    assert_eq!((certified.identity, certified.public_key), (name, key.public()));
    assert!(certified_by(ca.certificate(), &chain, now + 2 * DAY.as_secs()).is_err());
    assert!(certified_by(ca.certificate(), &chain, now - DAY.as_secs()).is_err());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Ca::create(elsewhere.path()).unwrap();
    assert!(certified_by(other.certificate(), &chain, now).is_err());
    assert!(certified_by(ca.certificate(), ca.certificate(), now).is_err());
    assert!(certified_by(ca.certificate(), "", now).is_err());
    assert!(certified_by(ca.certificate(), &chain.repeat(40), now).is_err());
}

#[test]
fn a_person_s_file_gives_their_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path()).unwrap();
    let path = dir.path().join("alice.pem");
    ca.client_identity(&identity("azote:operator/alice"), DAY, &path).unwrap();
    let alice = Credentials::read(&path).unwrap();
    assert_eq!(alice.identity().unwrap(), identity("azote:operator/alice"));
    assert!(Credentials::read(&dir.path().join("ca.pem")).is_err());
}
