//! The controller's process among the real ones: boot, refusals, the volume card, the chip's events, the
//! sandbox, and a power cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod boot;
#[path = "../../../../lib/tpm/tests/bus/mod.rs"]
#[allow(dead_code, reason = "nobody alters anything here")]
mod bus;
mod enrolment;
#[path = "../../../cards/attestation/tests/guest/mod.rs"]
mod guest;
mod offers;
mod rack;
mod schemathesis;

use aws_lc_rs::digest::{SHA384, digest};
use guest::Guest;
use host_api::{
    AcknowledgeLog, AttachVolume, DetachVolume, DrainHost, InstanceState, PowerCycleHost, RecordKind,
    ResumeHost, SealedKey, Sha256, SignedKeys, StartInstance, StopInstance, UpdateTokenKeys, VolumeState,
};
use ids::{Identity, InstanceId, Slot, VolumeId};
use rack::{FIRMWARE, Rack, now};
use seal::{CardKey, Context, VolumeKey, seal};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};
use token::{Ed25519KeyPair, KeySet, Keys, PublicKey};

use wire::chip::{Lines, Reset};

const SIZE: u64 = 1 << 20;

fn attach(rack: &Rack, volume: &VolumeId, slot: u8, card: &[u8]) -> AttachVolume {
    let path = rack.dir.path().join(format!("volumes/{volume}.img"));
    fs::File::create(path).unwrap().set_len(SIZE).unwrap();
    let context = Context { host: rack.host.clone(), volume: volume.clone() };
    let sealed = seal(card, &context, &VolumeKey::generate().unwrap()).unwrap();
    AttachVolume {
        volume: volume.clone(),
        device_name: "/dev/sdf".parse().unwrap(),
        size: SIZE,
        instance: None,
        slot: Slot::try_from(slot).unwrap(),
        sealed_key: SealedKey::from_bytes(&sealed).unwrap(),
    }
}

/// The card's public key, as one who trusts only the environment's authority learns it.
async fn card_key(rack: &Rack) -> [u8; 32] {
    let status = rack.status().await;
    let host = service::certified_by(rack.ca.certificate(), status.certificate.as_str(), now()).unwrap();
    assert_eq!(host.identity, Identity::Host(rack.host.clone()));
    let certificate = status.card.unwrap().certificate.unwrap().to_bytes();
    let host_key = PublicKey(host.public_key);
    let certified = token::CardKeyCertificate::verify(&certificate, &host_key, now()).unwrap();
    assert_eq!(certified.host, rack.host);
    certified.public_key
}

/// Writes to the firmware as a main board can: over NBD.
fn write_flash(rack: &Rack) -> u32 {
    let mut nbd = UnixStream::connect(rack.dir.path().join("nbd")).unwrap();
    let mut greeting = [0; 18];
    nbd.read_exact(&mut greeting).unwrap();
    let mut hello = 3u32.to_be_bytes().to_vec();
    hello.extend([&b"IHAVEOPT"[..], &1u32.to_be_bytes(), &4u32.to_be_bytes(), b"code"].concat());
    nbd.write_all(&hello).unwrap();
    let mut export = [0; 10];
    nbd.read_exact(&mut export).unwrap();
    assert_eq!(u64::from_be_bytes(export[..8].try_into().unwrap()), FIRMWARE as u64);
    let mut write =
        [&0x2560_9513u32.to_be_bytes()[..], &[0, 0, 0, 1], &[9; 8], &4096u64.to_be_bytes()].concat();
    write.extend([&512u32.to_be_bytes()[..], &[0xee; 512]].concat());
    nbd.write_all(&write).unwrap();
    let mut reply = [0; 16];
    nbd.read_exact(&mut reply).unwrap();
    u32::from_be_bytes(reply[4..8].try_into().unwrap())
}

#[tokio::test]
async fn a_host_boots_serves_and_records() {
    let rack = Rack::start();
    let status = rack.status().await;
    assert!(status.in_service, "{:?}", status.out_of_service);
    assert!(!status.chip.unwrap().reset_held);
    assert!(rack.runs());
    let what: Vec<_> = status.measurements.iter().map(|measured| measured.what.as_str()).collect();
    assert_eq!(
        what,
        ["configuration", "policies", "volume card", "attestation card", "main-board firmware", "token keys"]
    );
    let card = fs::read(rack.dir.path().join("first/volume-card")).unwrap();
    assert_eq!(status.measurements[2].sha256, Sha256::from_digest(&controller::boot::sha256(&card)));
    assert_eq!(status.card.unwrap().image, status.measurements[2].sha256);
    let release = status.release.unwrap();
    assert_eq!((release.version.as_str(), release.security_version), ("first", 1));

    assert_eq!(rack.without_token().await, "token.missing");
    TcpStream::connect(rack.address()).unwrap().write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(write_flash(&rack), 1, "EPERM");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let log = rack.log().await;
    for (kind, code) in [
        (RecordKind::Event, "host.releases-reset"),
        (RecordKind::Event, "host.in-service"),
        (RecordKind::Refusal, "token.missing"),
        (RecordKind::Refusal, "tls.handshake"),
        (RecordKind::Event, "chip.write-refused"),
    ] {
        let found =
            log.iter().filter(|r| r.kind == kind && r.code.as_ref().is_some_and(|c| c.as_str() == code));
        assert_eq!(found.count(), 1, "{code}");
    }
    drop(rack.controller);
    let list = status.measurements.iter().map(|measured| tpm::Measurement {
        pcr: u8::try_from(measured.pcr).unwrap(),
        digest: measured.sha256.to_digest(),
        description: measured.what.to_string(),
    });
    let replayed = tpm::replay(&list.collect::<Vec<_>>()).unwrap();
    let mut tpm = tpm::Tpm::connect(&rack.dir.path().join("tpm.sock")).unwrap();
    assert_eq!(tpm.pcr_read(&replayed.keys().copied().collect::<Vec<_>>()).unwrap(), replayed);
    for (pcr, value) in replayed {
        let told = status.registers.iter().find(|register| register.pcr == u64::from(pcr)).unwrap();
        assert_eq!(told.value.to_digest(), value);
    }
}

#[tokio::test]
async fn the_real_card_opens_only_what_was_sealed_to_it() {
    let rack = Rack::start();
    let card = card_key(&rack).await;
    let (root, data) = (VolumeId::from_random(1), VolumeId::from_random(2));
    let other = CardKey::generate().unwrap();
    assert_eq!(rack.refused(attach(&rack, &root, 1, other.public())).await, "key.sealed");
    let swapped = AttachVolume { volume: root.clone(), ..attach(&rack, &data, 1, &card) };
    assert_eq!(rack.refused(swapped).await, "key.sealed");
    let function = rack.dir.path().join(format!("functions/{root}.sock"));
    assert!(!function.exists(), "a refused attach left its socket");

    rack.call(attach(&rack, &root, 1, &card)).await.unwrap();
    assert!(!rack.runs(), "a function was plugged under running firmware");
    UnixStream::connect(&function).unwrap();
    let instance = InstanceId::from_random(3);
    let started = rack.call(StartInstance::metal(instance.clone(), root.clone())).await.unwrap();
    assert_eq!(started.state, InstanceState::Running);
    assert!(rack.runs());
    rack.call(attach(&rack, &data, 2, &card)).await.unwrap();
    let states: Vec<_> = rack.status().await.volumes.into_iter().map(|volume| volume.state).collect();
    assert!(
        states.iter().all(|state| [VolumeState::Waiting, VolumeState::Connected].contains(state)),
        "{states:?}"
    );
    rack.call(DetachVolume { volume: data, force: false }).await.unwrap();
    assert_eq!(rack.refused(DetachVolume { volume: root.clone(), force: true }).await, "volume.root");
    rack.call(StopInstance { instance, force: false }).await.unwrap();
    assert!(!rack.runs());
    rack.call(DetachVolume { volume: root, force: false }).await.unwrap();
    assert!(!function.exists() && rack.board.lock().unwrap().slots.is_empty());
}

#[tokio::test]
async fn an_instance_on_the_main_board_proves_what_it_is_by_default() {
    let rack = Rack::start();
    let root = VolumeId::from_random(1);
    rack.call(attach(&rack, &root, 1, &card_key(&rack).await)).await.unwrap();
    let instance = InstanceId::from_random(3);
    let function = rack.dir.path().join(format!("functions/{instance}.sock"));
    for _ in 0..2 {
        rack.call(StartInstance::metal(instance.clone(), root.clone())).await.unwrap();
        assert!(rack.board.lock().unwrap().slots.contains(&Slot::HOST));
        let status = rack.status().await;
        assert_eq!(status.board.unwrap().slots, [Slot::try_from(1).unwrap()], "the volume's alone is told");
        let mut guest = Guest::boot(vfio_user::Client::connect(&function).unwrap());
        let hash = |data: &[&[u8]]| {
            let extend =
                |old: Vec<u8>, data: &&[u8]| digest(&SHA384, &[&old, *data].concat()).as_ref().to_vec();
            (true, data.iter().fold(vec![0; 48], extend))
        };
        let firmware = status.chip.unwrap().firmware.to_digest();
        assert_eq!(guest.register(0), hash(&[&firmware]));
        assert_eq!(guest.register(4), hash(&[instance.as_str().as_bytes()]));
        let log: Vec<Vec<u8>> = status.measurements.iter().map(entry).collect();
        let log: Vec<&[u8]> = log.iter().map(Vec::as_slice).collect();
        assert_eq!(guest.register(6), hash(&log));
        let document = guest.document(b"a tenant's nonce");
        let authority = pki::Attestation::open_or_create(&rack.dir.path().join("pki")).unwrap();
        let root = nsm::Chain::from_pem(authority.root()).unwrap();
        let [root] = root.certificates() else { panic!() };
        let question = nsm::Question {
            root,
            now: Duration::from_secs(now()),
            nonce: Some(b"a tenant's nonce"),
            instance: Some(&instance),
            host: Some(&status.host),
            registers: [(6, vec![guest.register(6).1.try_into().unwrap()])].into(),
        };
        nsm::verify(&document, &question).unwrap();
        rack.call(StopInstance { instance: instance.clone(), force: true }).await.unwrap();
        assert!(!function.exists() && !rack.board.lock().unwrap().slots.contains(&Slot::HOST));
        assert!(guest.client.read(0, 0, &mut [0]).is_err(), "the function outlived its instance");
    }
}

/// An entry of the boot log.
fn entry(measured: &host_api::Measured) -> Vec<u8> {
    let mut name = measured.what.as_str().as_bytes().to_vec();
    name.resize(36, 0);
    let pcr = u32::try_from(measured.pcr).unwrap().to_be_bytes();
    [&pcr[..], &name, &measured.sha256.to_digest()].concat()
}

#[tokio::test]
async fn a_power_cut_resets_the_host_and_its_log_goes_on() {
    let mut rack = Rack::start();
    let card = card_key(&rack).await;
    let root = VolumeId::from_random(1);
    rack.call(attach(&rack, &root, 1, &card)).await.unwrap();
    let before = rack.log().await.len();
    rack.power_cycle();
    let status = rack.status().await;
    assert!(status.in_service && status.volumes.is_empty());
    assert!(rack.board.lock().unwrap().slots.is_empty(), "a function of the dead card is still plugged");
    assert_ne!(card_key(&rack).await, card, "a card key outlived its card");
    assert!(rack.log().await.len() > before);
    rack.call(attach(&rack, &root, 1, &card_key(&rack).await)).await.unwrap();

    let segment = rack.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let refused = rack.try_controller();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("the host's log is broken"), "{said}");
    assert_eq!(rack.report().0, "log.broken");
}

/// The numbers of the controller and of the processes that it started, each with its `status`.
fn processes(rack: &Rack) -> Vec<(u32, String)> {
    let controller = rack.controller.0.id();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    let ours = |status: &String| [field(status, "Pid"), field(status, "PPid")].contains(&Some(controller));
    all.filter(ours).map(|status| (field(&status, "Pid").unwrap(), status)).collect()
}

fn field(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[tokio::test]
async fn the_controller_and_its_card_are_confined_and_end_together() {
    let mut rack = Rack::start();
    rack.status().await;
    let processes = processes(&rack);
    assert_eq!(processes.len(), 3, "the controller and two cards");
    for (_, status) in &processes {
        assert_eq!((field(status, "Seccomp"), field(status, "NoNewPrivs")), (Some(2), Some(1)), "{status}");
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&rack.controller.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(rack.controller.0.wait().unwrap().code(), Some(0));
    for (pid, _) in processes {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
    rack.power_cycle();
    let codes: Vec<_> = rack.log().await.into_iter().filter_map(|record| record.code).collect();
    let stopped = codes.iter().position(|code| code.as_str() == "host.stopped").unwrap();
    assert_eq!(codes[stopped + 1].as_str(), "host.started");
}

#[tokio::test]
async fn segments_come_and_go_in_the_sandbox() {
    let rack = Rack::start();
    while rack.segments().len() < 2 {
        assert_eq!(rack.without_token().await, "token.missing");
    }
    let log = rack.log().await;
    let head = log.last().unwrap();
    let checkpoint = Sha256::from_digest(&[1; 32]);
    rack.call(AcknowledgeLog { up_to: head.seq, checkpoint }).await.unwrap();
    assert_eq!(rack.segments().len(), 1, "an acknowledged segment is still there");
    let rest = rack.log().await;
    assert!(rest[0].seq > 1 && rest[0].seq <= head.seq + 1);
}

#[tokio::test]
async fn what_keepers_and_pipeline_set_outlives_a_power_cut_and_a_power_cycle_starts_the_board_afresh() {
    let mut rack = Rack::start();
    let next = Ed25519KeyPair::generate().unwrap();
    let keys = Keys::new(vec![PublicKey::of(&next)]).unwrap();
    let signed = KeySet { sequence: 1, keys }.sign(&rack.issuer).unwrap();
    rack.call(DrainHost {}).await.unwrap();
    rack.call(UpdateTokenKeys { key_set: SignedKeys::from_bytes(&signed).unwrap() }).await.unwrap();
    assert_eq!(rack.refused(DrainHost {}).await, "token.signature", "the old key is not trusted any more");
    rack.issuer = next;
    rack.power_cycle();
    let status = rack.status().await;
    assert!(status.drained && status.in_service);
    assert_eq!(status.token_keys, 1);
    assert!(status.measurements.iter().any(|measured| measured.what.as_str() == "token keys"));
    rack.call(ResumeHost {}).await.unwrap();
    let before = rack.lines().len();
    rack.call(PowerCycleHost {}).await.unwrap();
    let (held, runs) = (Lines { bmc: Reset::Released, ..Lines::HELD }, Lines::RELEASED);
    let board = Lines { cpu: Reset::Held, ..Lines::RELEASED };
    assert_eq!(rack.lines()[before..], [board, held, board, runs]);
    assert!(!rack.status().await.drained);
}
