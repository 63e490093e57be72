//! What ends while a server serves: its certificate, and the revocation list at hand.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use axum::Router;
use ids::{Environment, Identity};
use pki::{Authority, Lives};
use rustls::pki_types::ServerName;
use service::{
    AUTHORITY, CERTIFICATE, CallError, Client, Credentials, Incident, Json, Key, Limits, Offered, Renewable,
    Service, Shown, Trust, bind, certificates, client_config, list_ends, revocations, serve,
    server_config_trusting,
};
use std::{
    fs,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, UNIX_EPOCH},
};
use tempfile::TempDir;
use token::PublicKey;
use tokio::{net::TcpStream, time::sleep};

const DAY: Duration = Duration::from_secs(86_400);
const KMS: &str = "azote:service/kms";

struct House {
    dir: TempDir,
    authority: Authority,
    trust: Arc<Trust>,
    me: Arc<Renewable>,
    address: SocketAddr,
    incidents: Arc<Mutex<Vec<Incident>>>,
}

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

impl House {
    /// A service whose certificate lives 100 s; a list of the authority's lives `list`.
    fn open(list: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(&dir, list);
        let trust = Arc::new(Trust::new(&fs::read_to_string(authority.trusted()).unwrap()).unwrap());
        let me = credentials(&authority, KMS, Duration::from_secs(100));
        let me = Renewable::new(me, Arc::clone(&trust)).unwrap();
        let incidents: Arc<Mutex<Vec<Incident>>> = Arc::default();
        let told = Arc::clone(&incidents);
        let service = Service {
            router: Router::new()
                .route("/v1/hello", axum::routing::get(|| async { Json(true) }))
                .merge(certificates(Arc::clone(&me)))
                .merge(revocations(Arc::clone(&trust))),
            tls: server_config_trusting(me.served(), Arc::clone(&trust), false).unwrap(),
            limits: Limits::default(),
            observer: Arc::new(move |incident| told.lock().unwrap().push(incident)),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, service, pending()));
        Self { dir, authority, trust, me, address, incidents }
    }

    fn client(&self, trusted: &str, name: &str) -> Client {
        let me = credentials(&self.authority, name, DAY);
        Client::new(trusted, identity(KMS), self.address, Some(&me)).unwrap()
    }

    fn trusted(&self) -> String {
        fs::read_to_string(self.authority.trusted()).unwrap()
    }

    /// What a new connection is shown.
    async fn shown(&self) -> Vec<u8> {
        let me = credentials(&self.authority, AUTHORITY, DAY);
        let config = client_config(&self.trusted(), &identity(KMS), Some(&me)).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

fn open(dir: &TempDir, list: Duration) -> Authority {
    Authority::open_with(dir.path(), Environment::NonProduction, Lives { certificate: DAY, list }).unwrap()
}

fn credentials(authority: &Authority, name: &str, life: Duration) -> Credentials {
    let key = Key::generate().unwrap();
    let chain = authority.ca().issue(&key.request().unwrap(), &identity(name), true, life).unwrap();
    Credentials::new(&chain, key).unwrap()
}

fn code<T>(answer: Result<T, CallError>) -> String {
    answer.err().map(|error| error.code().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_server_takes_the_next_certificate_of_its_own_name_and_key_from_the_authority_alone() {
    let house = House::open(DAY);
    let first = house.shown().await;
    let key = PublicKey(house.me.credentials().key().public());
    let good = Offered { chain: house.authority.renew_service(&key, &identity(KMS)).unwrap() };
    let offer = async |by: &str, offered: &Offered| {
        house.client(&house.trusted(), by).post::<_, Shown>(CERTIFICATE, offered).await
    };
    for (by, chain, wanted) in [
        (
            AUTHORITY,
            house.authority.renew_service(&key, &identity("azote:service/tokens")).unwrap(),
            "refused",
        ),
        (AUTHORITY, house.authority.renew_service(&PublicKey([9; 32]), &identity(KMS)).unwrap(), "refused"),
        (AUTHORITY, house.authority.ca().certificate().to_owned(), "refused"),
        (AUTHORITY, "no certificate".to_owned(), "refused"),
        (AUTHORITY, other_authority(&key), "refused"),
    ] {
        assert_eq!(code(offer(by, &Offered { chain }).await), format!("certificate.{wanted}"));
    }
    for by in ["azote:tenant/acme", "azote:service/audit", KMS] {
        assert_eq!(code(offer(by, &good).await), "rights.caller", "{by}");
    }
    assert_eq!(house.shown().await, first, "what was refused changed nothing");

    let shown = offer(AUTHORITY, &good).await.unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now + DAY.as_secs() - 5..=now + DAY.as_secs()).contains(&shown.ends));
    assert_ne!(house.shown().await, first);
    assert_eq!(house.me.credentials().ends(), shown.ends, "and so it calls others");
    assert!(offer(AUTHORITY, &good).await.is_ok(), "the same again");
    let lives = Lives { certificate: Duration::from_secs(200), list: DAY };
    let short = Authority::open_with(house.dir.path(), Environment::NonProduction, lives).unwrap();
    let chain = short.renew_service(&key, &identity(KMS)).unwrap();
    assert_eq!(code(offer(AUTHORITY, &Offered { chain }).await), "certificate.older");
}

fn other_authority(key: &PublicKey) -> String {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, DAY).renew_service(key, &identity(KMS)).unwrap()
}

#[tokio::test]
async fn a_revocation_list_that_has_ended_is_refused_at_both_ends_until_the_next_one_comes() {
    let house = House::open(Duration::from_secs(2));
    let trusted = house.trusted();
    let hello =
        async |trusted: &str| house.client(trusted, "azote:tenant/acme").get::<bool>("/v1/hello").await;
    assert!(hello(&trusted).await.unwrap());
    let ends = list_ends(&trusted).unwrap();
    while UNIX_EPOCH.elapsed().unwrap().as_secs() <= ends {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(code(hello(&trusted).await), "revocation.expired", "the client trusts nobody");
    // One without a list at hand trusts the server; the server trusts nobody.
    let authority = house.authority.ca().certificate();
    assert_eq!(code(hello(authority).await), "call.unreachable");
    let told =
        || house.incidents.lock().unwrap().iter().any(|incident| incident.code == "revocation.expired");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !told() {
        assert!(Instant::now() < deadline, "{:?}", house.incidents.lock().unwrap());
        sleep(Duration::from_millis(20)).await;
    }

    let next = open(&house.dir, DAY).refresh_list().unwrap();
    house.trust.offer(&next).unwrap();
    assert!(hello(authority).await.unwrap() && hello(&house.trusted()).await.unwrap());
}
