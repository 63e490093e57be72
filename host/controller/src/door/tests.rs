//! The whole door over HTTP, with real tokens and a host whose components speak the real wire protocol on
//! real sockets.

mod rig;

use super::*;
use axum::{body::Body, http::StatusCode};
use host_api::{
    AttachVolume, Call as _, DetachVolume, ErrorBody, HostStatus, HttpCall, InstanceState, InstanceStatus,
    LogPage, LogRecord, ReadLog, ReadStatus, StartInstance, StopInstance, VolumeState, VolumeStatus,
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
        slot: Slot::try_from(slot).unwrap(),
        sealed_key: host_api::SealedKey::from_bytes(&[5; 112]).unwrap(),
    }
}

fn detach(n: u128, force: bool) -> DetachVolume {
    DetachVolume { volume: volume(n), force }
}

fn start(i: u128, root: u128) -> StartInstance {
    StartInstance { instance: instance(i), root: volume(root) }
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

#[tokio::test]
async fn a_main_job_goes_through_and_is_recorded_before_it_is_done() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    let attached = client.call(attach(1, 1)).await.unwrap();
    assert_eq!((attached.volume, attached.state), (volume(1), VolumeState::Waiting));
    let started = client.call(start(1, 1)).await.unwrap();
    assert_eq!(started.state, InstanceState::Running);
    rig.make_storage(&volume(2));
    client.call(attach(2, 2)).await.unwrap();
    client.call(detach(2, false)).await.unwrap();
    let status = client.call(ReadStatus {}).await.unwrap();
    assert!(status.in_service && status.chip.unwrap().firmware == rig::good_firmware());
    assert_eq!(status.volumes.len(), 1);
    assert_eq!(
        status.instance,
        Some(InstanceStatus { instance: instance(1), root: volume(1), state: InstanceState::Running })
    );
    client.call(stop(1, true)).await.unwrap();
    client.call(detach(1, false)).await.unwrap();
    assert_eq!(
        rig.chip.log(),
        ["hold", "hold", "measure", "release", "status", "hold"],
        "a running guest's board was reset, or reset was released without measuring"
    );
    let records = rig.records();
    let acts = rig.card.seen().into_iter().filter(|seen| ["attach", "detach"].contains(&seen.what.as_str()));
    for (earlier, act) in acts.enumerate() {
        assert!(act.intents_on_disk > earlier, "{} before its intent was on disk", act.what);
    }
    let intents = records.iter().filter(|r| r.kind == RecordKind::Intent);
    for intent in intents {
        let mut outcomes = records.iter().filter(|r| r.intent == Some(intent.seq));
        let outcome = outcomes.next().unwrap();
        assert!(outcome.kind == RecordKind::Outcome && outcome.code.is_none() && outcome.seq > intent.seq);
        assert!(outcomes.next().is_none());
    }
}

#[tokio::test]
async fn the_log_is_read_in_pages_and_its_chain_holds() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    for _ in 0..3 {
        client.call(ReadStatus {}).await.unwrap();
    }
    let page: LogPage = client.call(ReadLog { after: 0 }).await.unwrap();
    let mut hash = host_api::GENESIS;
    for (seq, record) in (1..).zip(&page.records) {
        hash = record.follows(seq, &hash).unwrap();
    }
    assert_eq!(page.records.len(), 7, "three acts and the intent of reading");
    assert_eq!(client.call(ReadLog { after: 6 }).await.unwrap().records[0], page.records[6]);
    let text = String::from_utf8(rig.log_bytes()).unwrap();
    let token = client.sign(&ReadStatus {}, |_| ()).token.unwrap();
    assert!(!text.contains(&token[..32]), "token bytes in the log");
}

#[tokio::test]
async fn acts_that_the_state_does_not_allow_have_their_codes() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    for n in 1..=3 {
        rig.make_storage(&volume(n));
    }
    assert_eq!(client.refused(attach(9, 1)).await, "volume.no-storage");
    assert_eq!(client.refused(AttachVolume { size: 4096, ..attach(1, 1) }).await, "volume.size");
    client.call(attach(1, 1)).await.unwrap();
    assert_eq!(client.refused(attach(1, 2)).await, "volume.exists");
    assert_eq!(client.refused(attach(2, 1)).await, "slot.taken");
    assert_eq!(client.refused(detach(2, false)).await, "volume.unknown");
    assert_eq!(client.refused(start(1, 2)).await, "instance.no-root");
    assert_eq!(client.refused(stop(1, false)).await, "instance.unknown");
    client.call(start(1, 1)).await.unwrap();
    assert_eq!(client.refused(start(2, 1)).await, "instance.exists");
    assert_eq!(client.refused(detach(1, true)).await, "volume.root");
    client.call(attach(2, 2)).await.unwrap();
    rig.card.answer_next("volume.busy");
    assert_eq!(client.refused(detach(2, false)).await, "volume.busy");
    rig.card.answer_next("key.sealed");
    assert_eq!(client.refused(attach(3, 3)).await, "key.sealed");
    rig.card.answer_next("guest.said-something");
    assert_eq!(client.refused(attach(3, 3)).await, "card.fault");
    let last = rig.records().pop().unwrap();
    assert_eq!(
        (last.kind, last.code.unwrap().as_str().to_owned()),
        (RecordKind::Outcome, "card.fault".to_owned())
    );
}

#[tokio::test]
async fn a_failed_plug_takes_the_attach_back() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    rig.board.answer_next("board.broken");
    assert_eq!(client.refused(attach(1, 1)).await, "board.fault");
    assert_eq!(rig.card.log(), ["hello", "attach", "detach"]);
    assert!(!rig.function_path(&volume(1)).exists());
    client.call(attach(1, 1)).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_does_not_stop_is_stopped_and_others_can_look_meanwhile() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    client.call(attach(1, 1)).await.unwrap();
    client.call(start(1, 1)).await.unwrap();
    let (stopped, meanwhile) = tokio::join!(client.call(stop(1, false)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = client.call(ReadStatus {}).await.unwrap();
        (status.instance.unwrap().state, client.refused(start(2, 1)).await)
    });
    stopped.unwrap();
    assert_eq!(meanwhile, (InstanceState::Stopping, "instance.changing".to_owned()));
    assert!(rig.board.log().contains(&"power-button".to_owned()));
    assert!(client.call(ReadStatus {}).await.unwrap().chip.unwrap().reset_held);
}

#[tokio::test]
async fn firmware_that_changed_is_not_started_and_takes_the_host_out_of_service() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    client.call(attach(1, 1)).await.unwrap();
    rig.chip.set_firmware([0xee; 32]);
    assert_eq!(client.refused(start(1, 1)).await, "host.out-of-service");
    assert!(!rig.chip.log().contains(&"release".to_owned()));
    let before = rig.records();
    assert_eq!(client.refused(attach(2, 2)).await, "host.out-of-service");
    assert_eq!(one_refusal(&before, &rig.records(), "host.out-of-service").api, Some(Api::AttachVolume));
    let status = client.call(ReadStatus {}).await.unwrap();
    assert!(!status.in_service && status.chip.unwrap().reset_held);
    assert!(status.out_of_service.unwrap().message.as_str().contains(&"ee".repeat(32)));
}

#[tokio::test]
async fn a_host_that_cannot_log_does_nothing() {
    for rig in [Rig::with_log_capacity(1000), Rig::with_log_on("/dev/full")] {
        let client = Client::new(&rig);
        rig.make_storage(&volume(1));
        assert_eq!(client.refused(attach(1, 1)).await, "log.unavailable");
        assert_eq!(client.refused(ReadStatus {}).await, "log.unavailable");
        let sent =
            Sent { method: "GET", target: "/v1/nothing".to_owned(), body: vec![], token: None, proof: None };
        let (status, body) = client.send(sent).await;
        let told = answer::<HostStatus>(status, &body).unwrap_err();
        if rig.log_bytes().is_empty() {
            assert_eq!(told.code.as_str(), "log.unavailable");
        }
        assert_eq!(rig.card.log(), ["hello"]);
        assert!(rig.chip.log().is_empty());
    }
}

#[tokio::test]
async fn who_has_a_token_but_no_proof_cannot_fill_the_log() {
    let rig = Rig::with_log_capacity(16 * host_api::MAX_RECORD as u64);
    let client = Client::new(&rig);
    let refused = async |code: &str| {
        let sent = client.sign(&ReadStatus {}, |claims| claims.expires = NOW);
        let (status, body) = client.send(sent).await;
        answer::<HostStatus>(status, &body).unwrap_err().code.as_str() == code
    };
    while refused("token.expired").await {}
    assert!(refused("log.unavailable").await);
    client.call(ReadStatus {}).await.unwrap();
    assert_eq!(client.refused(stop(1, false)).await, "instance.unknown");
}

#[tokio::test]
async fn a_card_that_dies_takes_its_volumes_along_and_they_can_be_detached() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    client.call(attach(1, 1)).await.unwrap();
    rig.card.die();
    assert_eq!(client.call(ReadStatus {}).await.unwrap().volumes[0].state, VolumeState::Failed);
    let codes: Vec<_> =
        rig.host.look().into_iter().filter_map(|entry| entry.code).map(String::from).collect();
    assert_eq!(codes, ["card.gone"]);
    assert_eq!(client.refused(start(1, 1)).await, "instance.no-root");
    client.call(detach(1, false)).await.unwrap();
    assert!(!rig.function_path(&volume(1)).exists());
    assert_eq!(client.refused(attach(1, 1)).await, "card.gone");
    let card = client.call(ReadStatus {}).await.unwrap().card.unwrap();
    assert!(card.certificate.is_none());
}

#[tokio::test]
async fn a_guest_that_switches_itself_off_is_noticed_and_may_start_again() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    rig.board.set_power(wire::board::Power::Off, 3);
    client.call(attach(1, 1)).await.unwrap();
    client.call(start(1, 1)).await.unwrap();
    assert!(rig.host.look().is_empty(), "an end from before the start was taken for this guest's");
    rig.board.set_power(wire::board::Power::Off, 4);
    let codes: Vec<_> =
        rig.host.look().into_iter().filter_map(|entry| entry.code).map(String::from).collect();
    assert_eq!(codes, ["instance.off"]);
    assert_eq!(client.call(ReadStatus {}).await.unwrap().instance.unwrap().state, InstanceState::Off);
    assert_eq!(client.refused(start(2, 1)).await, "instance.exists");
    client.call(start(1, 1)).await.unwrap();
}

#[tokio::test]
async fn the_card_is_certified_by_the_hosts_key() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let status = client.call(ReadStatus {}).await.unwrap();
    let certificate = status.card.unwrap().certificate.unwrap().to_bytes();
    let certified = token::CardKeyCertificate::verify(&certificate, &rig.identity, NOW).unwrap();
    assert_eq!((certified.host, certified.public_key), (rig::host_id(), rig::CARD_KEY));
}

#[tokio::test]
async fn what_the_chip_saw_comes_into_the_log_once() {
    let rig = Rig::new();
    rig.chip.guest_writes_flash();
    let codes =
        |host: &Host| host.look().into_iter().filter_map(|e| e.code).map(String::from).collect::<Vec<_>>();
    assert_eq!(codes(&rig.host), ["chip.write-refused"]);
    assert!(codes(&rig.host).is_empty());
}

#[tokio::test]
async fn a_failed_handshake_is_a_refusal_with_its_address() {
    let rig = Rig::new();
    let before = rig.records();
    let incident = service::Incident {
        address: SocketAddr::from(([192, 0, 2, 7], 4711)),
        peer: None,
        code: "tls.handshake",
        detail: "no shared version".to_owned(),
    };
    rig.door.incident(&incident).unwrap();
    one_refusal(&before, &rig.records(), "tls.handshake");
}
