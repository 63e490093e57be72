//! The whole door over HTTP, with real tokens and a host whose components speak the real wire protocol on
//! real sockets.

mod acts;
mod keepers;
mod matrix;
mod records;
mod rig;

use super::*;
use axum::{body::Body, http::StatusCode};
use host_api::{
    AttachVolume, Call as _, DetachVolume, ErrorBody, HostStatus, HttpCall, InstanceState, InstanceStatus,
    InstanceType, LogPage, LogRecord, ReadLog, ReadStatistics, ReadStatus, StartInstance, StopInstance,
    VolumeState, VolumeStatus,
};
use ids::{HostId, InstanceId, Slot, VolumeId};
use rig::{NOW, Rig};
use serde::de::DeserializeOwned;
use token::{Api, Claims, Ed25519KeyPair, PublicKey, Resource};
use tower::ServiceExt;

struct Client<'a> {
    rig: &'a Rig,
    key: Ed25519KeyPair,
}

/// A request before it is sent, to spoil.
struct Sent {
    method: &'static str,
    target: String,
    body: Vec<u8>,
    token: Option<String>,
    proof: Option<String>,
}

impl<'a> Client<'a> {
    fn new(rig: &'a Rig) -> Self {
        Self { rig, key: Ed25519KeyPair::generate().unwrap() }
    }

    fn claims(&self, api: Api, resources: Vec<Resource>) -> Claims {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).unwrap();
        Claims {
            issuer: "azote:service/tokens".parse().unwrap(),
            subject: "azote:operator/alice".parse().unwrap(),
            audience: rig::host_id(),
            expires: NOW + 300,
            not_before: NOW - 10,
            issued: NOW - 10,
            id,
            holder: PublicKey::of(&self.key),
            apis: vec![api],
            resources,
            uses: 8,
        }
    }

    fn prove(&self, http: &HttpCall, token: &str, now: u64) -> String {
        let method = http.method.as_str();
        Call { method, path: &http.target, body: &http.body, token }.prove(&self.key, now).unwrap()
    }

    /// A request as it should be, with claims that `spoil` may change before they are signed.
    fn sign<C: host_api::Call>(&self, call: &C, spoil: impl FnOnce(&mut Claims)) -> Sent {
        let (http, request): (HttpCall, Request) = (call.http(), call.clone().into());
        let mut claims = self.claims(C::API, request.resources(&rig::host_id()));
        spoil(&mut claims);
        let token = claims.sign(&self.rig.issuer).unwrap();
        let proof = self.prove(&http, &token, NOW);
        let HttpCall { method, target, body } = http;
        Sent { method: method.as_str(), target, body, token: Some(token), proof: Some(proof) }
    }

    async fn send(&self, sent: Sent) -> (StatusCode, Vec<u8>) {
        let mut request = axum::http::Request::builder().method(sent.method).uri(&sent.target);
        if let Some(token) = &sent.token {
            request = request.header(TOKEN_HEADER, format!("Bearer {token}"));
        }
        if let Some(proof) = &sent.proof {
            request = request.header(PROOF_HEADER, proof);
        }
        let peer = ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711)));
        let request = request.extension(peer).body(Body::from(sent.body)).unwrap();
        let response = router(Arc::clone(&self.rig.door)).oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    async fn call<C: host_api::Call>(&self, call: C) -> Result<C::Answer, ErrorBody> {
        let (status, body) = self.send(self.sign(&call, |_| ())).await;
        answer(status, &body)
    }

    async fn refused<C: host_api::Call>(&self, call: C) -> String {
        self.call(call).await.err().unwrap().code.to_string()
    }
}

fn answer<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, ErrorBody> {
    if status == StatusCode::OK {
        return Ok(serde_json::from_slice(body).unwrap());
    }
    let body: ErrorBody = serde_json::from_slice(body).unwrap();
    let documented = host_api::refusal(body.code.as_str()).map(|row| row.status);
    if let Some(documented) = documented {
        assert_eq!(status.as_u16(), documented);
    }
    Err(body)
}

fn volume(n: u128) -> VolumeId {
    VolumeId::from_random(n)
}

fn instance(n: u128) -> InstanceId {
    InstanceId::from_random(n)
}

fn attach(n: u128, slot: u8) -> AttachVolume {
    AttachVolume {
        volume: volume(n),
        device_name: "/dev/sdf".parse().unwrap(),
        size: rig::SIZE,
        instance: None,
        slot: Slot::try_from(slot).unwrap(),
        sealed_key: host_api::SealedKey::from_bytes(&[5; 112]).unwrap(),
    }
}

fn detach(n: u128, force: bool) -> DetachVolume {
    DetachVolume { volume: volume(n), force }
}

fn start(i: u128, root: u128) -> StartInstance {
    StartInstance::metal(instance(i), volume(root))
}

fn stop(i: u128, force: bool) -> StopInstance {
    StopInstance { instance: instance(i), force }
}

/// Asserts that exactly one record was added, and that it is a refusal with this code.
fn one_refusal(before: &[LogRecord], after: &[LogRecord], code: &str) -> LogRecord {
    assert_eq!(after.len(), before.len() + 1, "{code}");
    let last = after.last().unwrap();
    assert_eq!((last.kind, last.code.as_ref().unwrap().as_str()), (RecordKind::Refusal, code));
    assert_eq!(last.peer.as_ref().unwrap().as_str(), "192.0.2.7:4711");
    last.clone()
}

#[tokio::test]
async fn every_refusal_of_a_token_or_proof_has_its_code_and_leaves_one_record() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let thief = Client::new(&rig);
    let call = attach(1, 1);
    let http = call.http();
    type Spoil<'a> = Box<dyn Fn(&mut Sent) + 'a>;
    let good = || client.sign(&call, |_| ());
    let with = |change: fn(&mut Claims)| client.sign(&call, change);
    let spoiled = |spoil: Spoil<'_>| {
        let mut sent = good();
        spoil(&mut sent);
        sent
    };
    let reprove = |by: &Client<'_>, at: u64| {
        let mut sent = good();
        sent.proof = Some(by.prove(&http, sent.token.as_ref().unwrap(), at));
        sent
    };
    let stranger = Ed25519KeyPair::generate().unwrap();
    let forged = client.claims(Api::AttachVolume, vec![]).sign(&stranger).unwrap();
    let cases: Vec<(&str, bool, Sent)> = vec![
        ("token.missing", false, spoiled(Box::new(|s| s.token = None))),
        ("token.malformed", false, spoiled(Box::new(|s| s.token = Some("bm9uc2Vuc2U".to_owned())))),
        ("token.signature", false, spoiled(Box::new(|s| s.token = Some(forged.clone())))),
        ("token.expired", true, with(|c| c.expires = NOW)),
        ("token.not-yet-valid", true, with(|c| c.not_before = NOW + 60)),
        ("token.audience", true, with(|c| c.audience = HostId::from_random(99))),
        ("token.api", true, with(|c| c.apis = vec![Api::DetachVolume])),
        ("token.resource", true, with(|c| c.resources = vec![Resource::Volume(volume(2))])),
        ("proof.missing", true, spoiled(Box::new(|s| s.proof = None))),
        ("proof.malformed", true, spoiled(Box::new(|s| s.proof = Some("x".to_owned())))),
        ("proof.signature", true, reprove(&thief, NOW)),
        ("proof.stale", true, reprove(&client, NOW - token::PROOF_AGE - 1)),
        ("proof.mismatch", true, spoiled(Box::new(|s| s.body.push(b' ')))),
    ];
    for (code, known, sent) in cases {
        let before = rig.records();
        let (status, body) = client.send(sent).await;
        let told = answer::<VolumeStatus>(status, &body).unwrap_err();
        assert_eq!(told.code.as_str(), code);
        let record = one_refusal(&before, &rig.records(), code);
        assert_eq!(record.subject.is_some(), known, "{code}: whose token was refused");
        assert_eq!(record.api, Some(Api::AttachVolume));
    }
    assert_eq!(rig.card.log(), ["hello"], "a refused request reached the card");
}

#[tokio::test]
async fn a_proof_works_once() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let sent = client.sign(&ReadStatus {}, |_| ());
    let again = Sent {
        method: sent.method,
        target: sent.target.clone(),
        body: sent.body.clone(),
        token: sent.token.clone(),
        proof: sent.proof.clone(),
    };
    assert_eq!(client.send(sent).await.0, StatusCode::OK);
    let before = rig.records();
    let (status, body) = client.send(again).await;
    assert_eq!(answer::<HostStatus>(status, &body).unwrap_err().code.as_str(), "proof.replayed");
    one_refusal(&before, &rig.records(), "proof.replayed");
}

#[test]
fn no_proof_that_an_earlier_run_could_take_is_taken_again() {
    let key = Ed25519KeyPair::generate().unwrap();
    let call = Call { method: "GET", path: "/v1/status", body: b"", token: "" };
    let mut after = ReplaySet::new(PROOFS, opens(Duration::new(NOW, 999_999_000)));
    let mut taken = |ahead: u64| {
        let proof = call.prove(&key, NOW + ahead).unwrap();
        let checked = call.verify(&proof, &PublicKey::of(&key), NOW);
        checked.map(|id| after.accept(&id, NOW + PROOF_AHEAD + 1).is_ok())
    };
    assert_eq!(taken(0), Ok(false));
    assert_eq!(taken(PROOF_AHEAD), Ok(false));
    assert!(taken(PROOF_AHEAD + 1).is_err(), "an earlier run took what lies further ahead");
    let now = NOW + PROOF_AHEAD + 1;
    let proof = call.prove(&key, now).unwrap();
    after.accept(&call.verify(&proof, &PublicKey::of(&key), now).unwrap(), now).unwrap();
}

#[tokio::test]
async fn what_is_no_request_of_the_api_is_refused_and_recorded() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/v1/shell"),
        ("POST", "/v1/status"),
        ("DELETE", "/v1/log"),
        ("GET", "/v1/status/"),
    ] {
        let before = rig.records();
        let sent = Sent { method, target: target.to_owned(), body: Vec::new(), token: None, proof: None };
        let (status, body) = client.send(sent).await;
        assert_eq!(answer::<HostStatus>(status, &body).unwrap_err().code.as_str(), "request.unknown");
        one_refusal(&before, &rig.records(), "request.unknown");
    }
    let long = vec![b' '; MAX_BODY + 1];
    for (target, body) in [
        ("/v1/volumes/detach", b"{}".to_vec()),
        ("/v1/volumes/detach", br#"{"volume":"../../etc/passwd","force":true}"#.to_vec()),
        ("/v1/volumes/detach?x=1", serde_json::to_vec(&detach(1, true)).unwrap()),
        ("/v1/volumes/detach", long),
    ] {
        let before = rig.records();
        let http = HttpCall { method: host_api::Method::Post, target: target.to_owned(), body };
        let token = client.claims(Api::DetachVolume, vec![]).sign(&rig.issuer).unwrap();
        let proof = client.prove(&http, &token, NOW);
        let sent = Sent {
            method: "POST",
            target: http.target,
            body: http.body,
            token: Some(token),
            proof: Some(proof),
        };
        let (status, body) = client.send(sent).await;
        assert_eq!(answer::<HostStatus>(status, &body).unwrap_err().code.as_str(), "request.malformed");
        one_refusal(&before, &rig.records(), "request.malformed");
    }
}

#[test]
fn a_component_that_is_gone_is_told_once() {
    let rig = Rig::new();
    let codes = || rig.host.look().into_iter().filter_map(|e| e.code).map(String::from).collect::<Vec<_>>();
    assert!(codes().is_empty());
    [&rig.chip, &rig.board].into_iter().for_each(rig::Part::die);
    // The far ends hang up when they are asked next.
    drop(rig.host.act(&Request::ReadStatus(ReadStatus {}), None));
    let mut told: Vec<_> = (0..3).flat_map(|_| codes()).collect();
    told.sort();
    assert_eq!(told, ["board.gone", "chip.gone"]);
}
