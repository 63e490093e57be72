//! What keepers, pipeline and audit service do to a host, and how often anyone may.

use super::*;
use host_api::{AcknowledgeLog, DrainHost, PowerCycleHost, ResumeHost, Sha256, SignedKeys, UpdateTokenKeys};
use std::mem::replace;
use token::{KeySet, Keys};

fn next_keys(sequence: u64, keys: &[&Ed25519KeyPair], signed_by: &Ed25519KeyPair) -> UpdateTokenKeys {
    let keys = Keys::new(keys.iter().map(|key| PublicKey::of(key)).collect()).unwrap();
    let signed = KeySet { sequence, keys }.sign(signed_by).unwrap();
    UpdateTokenKeys { key_set: SignedKeys::from_bytes(&signed).unwrap() }
}

#[tokio::test]
async fn a_drained_host_takes_nothing_new_and_stays_drained_over_a_restart() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    for n in 1..=2 {
        rig.make_storage(&volume(n));
    }
    client.call(attach(1, 1)).await.unwrap();
    client.call(start(1, 1)).await.unwrap();
    client.call(DrainHost {}).await.unwrap();
    assert_eq!(client.refused(attach(2, 2)).await, "host.drained");
    assert_eq!(client.refused(start(2, 1)).await, "host.drained");
    let status = client.call(ReadStatus {}).await.unwrap();
    assert!(status.drained && status.in_service);
    assert_eq!(status.instances[0].state, InstanceState::Running, "a running instance goes on");
    client.call(stop(1, true)).await.unwrap();
    client.call(detach(1, false)).await.unwrap();

    let rig = rig.restart();
    let client = Client::new(&rig);
    assert!(client.call(ReadStatus {}).await.unwrap().drained);
    assert_eq!(client.refused(attach(1, 1)).await, "host.drained");
    client.call(ResumeHost {}).await.unwrap();
    client.call(attach(1, 1)).await.unwrap();
    assert!(!client.call(ReadStatus {}).await.unwrap().drained);
}

#[tokio::test]
async fn a_host_that_is_out_of_service_cannot_be_resumed_or_power_cycled() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    client.call(DrainHost {}).await.unwrap();
    rig.chip.set_firmware([0xee; 32]);
    assert_eq!(client.refused(PowerCycleHost {}).await, "host.out-of-service");
    assert_eq!(
        rig.chip.log(),
        ["hold", "hold-board", "measure", "measure-bmc"],
        "reset was released for unknown firmware"
    );
    assert_eq!(client.refused(ResumeHost {}).await, "host.out-of-service");
    assert_eq!(client.refused(PowerCycleHost {}).await, "host.out-of-service");
    client.call(DrainHost {}).await.unwrap();
    assert!(client.call(ReadStatus {}).await.unwrap().drained);
}

#[tokio::test]
async fn a_power_cycle_holds_measures_and_releases_unless_an_instance_would_suffer() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    client.call(PowerCycleHost {}).await.unwrap();
    assert_eq!(
        rig.chip.log(),
        ["hold", "hold-board", "measure", "measure-bmc", "release-bmc", "release-board", "release"]
    );
    assert_eq!(rig.board.log(), ["status"]);
    rig.make_storage(&volume(1));
    client.call(attach(1, 1)).await.unwrap();
    client.call(start(1, 1)).await.unwrap();
    let before = rig.chip.log();
    assert_eq!(client.refused(PowerCycleHost {}).await, "instance.exists");
    assert_eq!(rig.chip.log(), before);
    client.call(stop(1, true)).await.unwrap();
    rig.board.set_power(wire::board::Power::Held, 1);
    assert_eq!(client.refused(PowerCycleHost {}).await, "board.fault");
}

#[tokio::test]
async fn a_host_follows_the_token_services_keys_without_a_restart_and_over_one() {
    let mut rig = Rig::new();
    let new = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    let client = Client::new(&rig);
    let stranger = Ed25519KeyPair::generate().unwrap();
    assert_eq!(client.refused(next_keys(1, &[&new], &stranger)).await, "keys.signature");
    let garbage = UpdateTokenKeys { key_set: SignedKeys::from_bytes(&[1; 40]).unwrap() };
    assert_eq!(client.refused(garbage).await, "keys.malformed");
    client.call(next_keys(1, &[&rig.issuer, &new], &rig.issuer)).await.unwrap();
    let record = rig.records().into_iter().rfind(|record| record.kind == RecordKind::Intent).unwrap();
    assert_eq!(record.detail.unwrap().as_str(), "sequence=1");

    let old = replace(&mut rig.issuer, new);
    let client = Client::new(&rig);
    assert_eq!(client.call(ReadStatus {}).await.unwrap().token_keys, 1, "both keys are good");
    client.call(next_keys(2, &[&rig.issuer], &old)).await.unwrap();
    let mut rig = rig.restart();
    assert_eq!(Client::new(&rig).call(ReadStatus {}).await.unwrap().token_keys, 2);
    let new = replace(&mut rig.issuer, old);
    assert_eq!(Client::new(&rig).refused(ReadStatus {}).await, "token.signature", "the old key is not");
    rig.issuer = new;
    let again = next_keys(2, &[&rig.issuer], &rig.issuer);
    assert_eq!(Client::new(&rig).refused(again).await, "keys.stale");
}

#[tokio::test]
async fn the_audit_service_acknowledges_what_it_holds_and_no_more() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let acknowledge = |up_to| AcknowledgeLog { up_to, checkpoint: Sha256::from_digest(&[4; 32]) };
    client.call(ReadStatus {}).await.unwrap();
    client.call(acknowledge(2)).await.unwrap();
    let noted = format!("up_to=2 checkpoint={}", "04".repeat(32));
    assert_eq!(rig.records()[2].detail.as_ref().unwrap().as_str(), noted);
    assert_eq!(client.refused(acknowledge(99)).await, "log.ahead");
}

#[tokio::test]
async fn a_token_is_good_for_as_many_calls_as_it_says_and_a_restart_gives_none_back() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let http = ReadStatus {}.http();
    let token = client.sign(&ReadStatus {}, |claims| claims.uses = 3).token.unwrap();
    let use_it = async |client: &Client<'_>| {
        let proof = client.prove(&http, &token, NOW);
        let (token, proof) = (Some(token.clone()), Some(proof));
        let sent = Sent { method: "GET", target: http.target.clone(), body: vec![], token, proof };
        let (status, body) = client.send(sent).await;
        answer::<HostStatus>(status, &body).err().map(|body| body.code.to_string())
    };
    assert_eq!(use_it(&client).await, None);
    assert_eq!(use_it(&client).await, None);
    let Client { key, .. } = client;
    let rig = rig.restart();
    let client = Client { rig: &rig, key };
    assert_eq!(use_it(&client).await, None);
    let before = rig.records();
    assert_eq!(use_it(&client).await.as_deref(), Some("token.used-up"));
    one_refusal(&before, &rig.records(), "token.used-up");
}

#[tokio::test]
async fn a_host_does_few_sensitive_operations_whoever_asks() {
    let rig = Rig::new();
    for _ in 0..rig::SENSITIVE {
        Client::new(&rig).call(DrainHost {}).await.unwrap();
    }
    let before = rig.records();
    assert_eq!(Client::new(&rig).refused(DrainHost {}).await, "host.quota");
    one_refusal(&before, &rig.records(), "host.quota");
    Client::new(&rig).call(ResumeHost {}).await.unwrap();
    let rig = rig.restart();
    assert_eq!(Client::new(&rig).refused(DrainHost {}).await, "host.quota");
    Client::new(&rig).call(PowerCycleHost {}).await.unwrap();
}

#[tokio::test]
async fn a_request_has_one_id_in_all_its_records() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let sent = client.sign(&ReadStatus {}, |_| ());
    let id = ProofId::peek(sent.proof.as_ref().unwrap()).unwrap().id_text();
    client.send(sent).await;
    let ids: Vec<_> = rig.records().into_iter().map(|record| record.request.unwrap().to_string()).collect();
    assert_eq!(ids, [id.clone(), id]);
    let expired = client.sign(&ReadStatus {}, |claims| claims.expires = NOW);
    let id = ProofId::peek(expired.proof.as_ref().unwrap()).unwrap().id_text();
    client.send(expired).await;
    assert_eq!(rig.records().pop().unwrap().request.unwrap().as_str(), id, "of a refusal too");
}

#[tokio::test]
async fn a_main_board_that_is_gone_is_told_and_nothing_new_is_taken() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    rig.make_storage(&volume(1));
    rig.board.die();
    // It dies at the next question.
    client.call(ReadStatus {}).await.unwrap();
    let status = client.call(ReadStatus {}).await.unwrap();
    assert!(!status.in_service && status.board.is_none());
    assert_eq!(status.out_of_service.unwrap().code.as_str(), "board.gone");
    assert_eq!(client.refused(attach(1, 1)).await, "board.gone");
    assert_eq!(rig.card.log().iter().filter(|what| *what == "attach").count(), 0);
}
