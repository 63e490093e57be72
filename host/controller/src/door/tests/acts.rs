//! What tenants' operations do to card, chip and main board.

use super::*;

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
        status.instances,
        [InstanceStatus {
            instance: instance(1),
            root: volume(1),
            instance_type: InstanceType::metal(),
            state: InstanceState::Running,
            measurement: None,
            credits: None,
            weaknesses: vec![],
        }]
    );
    client.call(stop(1, true)).await.unwrap();
    client.call(detach(1, false)).await.unwrap();
    assert_eq!(
        rig.chip.log(),
        [
            &["hold", "hold-board"][..],
            &["hold", "hold-board", "measure", "measure-bmc"],
            &["release-bmc", "release-board", "release"],
            &["status", "hold", "hold-board"]
        ]
        .concat(),
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
async fn acts_that_the_state_does_not_allow_have_their_codes() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    for n in 1..=3 {
        rig.make_storage(&volume(n));
    }
    assert_eq!(client.refused(attach(9, 1)).await, "volume.no-storage");
    let aside = AttachVolume { instance: Some(instance(1)), ..attach(1, 1) };
    assert_eq!(client.refused(aside).await, "hypervisor.absent");
    let small = StartInstance { instance_type: "t3.nano".parse().unwrap(), ..start(1, 1) };
    assert_eq!(client.refused(small).await, "hypervisor.absent");
    assert_eq!(client.refused(ReadStatistics { instance: instance(1) }).await, "instance.unknown");
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
        (status.instances[0].state, client.refused(start(2, 1)).await)
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
    assert_eq!(client.refused(start(1, 1)).await, "card.gone");
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
    assert_eq!(client.call(ReadStatus {}).await.unwrap().instances[0].state, InstanceState::Off);
    assert_eq!(client.refused(start(2, 1)).await, "instance.exists");
    client.call(start(1, 1)).await.unwrap();
}

#[tokio::test]
async fn the_card_is_certified_by_the_hosts_key() {
    let rig = Rig::new();
    let client = Client::new(&rig);
    let status = client.call(ReadStatus {}).await.unwrap();
    let certificate = status.card.unwrap().certificate.unwrap().to_bytes();
    let certified =
        token::CardKeyCertificate::verify(&certificate, &PublicKey(rig.key.public()), NOW).unwrap();
    assert_eq!((certified.host, certified.public_key), (rig::host_id(), rig::CARD_KEY));
}
