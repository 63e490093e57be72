//! What the host's log holds, and that nothing is done without it.

use super::*;

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
