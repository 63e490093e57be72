//! What the host's log holds, and that nothing is done without it.

use super::*;
use std::io::Write;

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
    assert_eq!(page.records.len(), 6, "three calls; that of reading is recorded before it is told");
    let next = client.call(ReadLog { after: 5 }).await.unwrap().records;
    assert_eq!((next.len(), &next[0]), (3, &page.records[5]));
    let text = rig.records().iter().map(LogRecord::line).collect::<String>();
    let token = client.sign(&ReadStatus {}, |_| ()).token.unwrap();
    assert!(!text.contains(&token[..32]), "token bytes in the log");
}

#[tokio::test]
async fn a_host_that_cannot_log_does_nothing() {
    for rig in [Rig::with_log_capacity(1000), Rig::with_failing_log()] {
        let client = Client::new(&rig);
        rig.make_storage(&volume(1));
        assert_eq!(client.refused(attach(1, 1)).await, "log.unavailable");
        assert_eq!(client.refused(ReadStatus {}).await, "log.unavailable");
        let sent =
            Sent { method: "GET", target: "/v1/nothing".to_owned(), body: vec![], token: None, proof: None };
        let (status, body) = client.send(sent).await;
        let told = answer::<HostStatus>(status, &body).unwrap_err();
        if rig.records().is_empty() {
            assert_eq!(told.code.as_str(), "log.unavailable");
        }
        assert_eq!(rig.card.log(), ["hello", "status"], "it may look, and tells nobody");
        assert_eq!(rig.chip.log(), ["status"]);
    }
}

#[tokio::test]
async fn who_observes_is_told_when_intent_and_outcome_are_on_disk() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    client.call(ReadStatus {}).await.unwrap();
    assert_eq!(rig.chip.seen()[0].intents_on_disk, 0, "it looks first");
    let records = rig.records();
    assert_eq!(client.refused(ReadStatistics { instance: instance(1) }).await, "instance.unknown");
    let after = rig.records();
    for (begun, code) in [(&records[..], None), (&after[records.len()..], Some("instance.unknown"))] {
        let [intent, outcome] = begun else { panic!("{begun:?}") };
        assert_eq!((intent.kind, outcome.kind), (RecordKind::Intent, RecordKind::Outcome));
        assert_eq!(
            (outcome.intent, outcome.code.as_ref().map(|code| code.as_str())),
            (Some(intent.seq), code)
        );
        assert_eq!((&outcome.subject, &outcome.request), (&intent.subject, &intent.request));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_becomes_a_request_is_in_the_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let served = matrix::Served::start(&pki::Ca::create(dir.path()).unwrap(), Api::HostStatus).await;
    let recorded = async |code: &str| {
        for _ in 0..500 {
            let last = served.rig.records().pop();
            if last.as_ref().is_some_and(|last| last.code.as_ref().unwrap().as_str() == code) {
                return last.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{code} is not in the log");
    };
    let stranger = std::net::TcpStream::connect(served.address).unwrap();
    (&stranger).write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").unwrap();
    let record = recorded("tls.handshake").await;
    assert_eq!(record.peer.unwrap().as_str(), stranger.local_addr().unwrap().to_string());
    assert_eq!(record.kind, RecordKind::Refusal);

    let send = async |method: &str, body: Vec<u8>, headers: &[(&str, &str)]| {
        served.client.call::<serde_json::Value>(method, "/v1/status", body, headers).await.unwrap_err()
    };
    send("POST", vec![b' '; MAX_BODY + 1], &[]).await;
    assert_eq!(recorded("request.too-large").await.kind, RecordKind::Refusal);
    send("GET", vec![], &[("x-long", &"a".repeat(40_000))]).await;
    assert_eq!(recorded("request.malformed").await.kind, RecordKind::Refusal);
    send("PUT", vec![], &[]).await;
    assert_eq!(recorded("request.unknown").await.kind, RecordKind::Refusal);
}
