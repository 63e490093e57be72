//! The card's process, as its controller and its guests see it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod rig;

use nsm::{ErrorCode, Request, Response};
use rig::{Card, Guest, Host, attach, instance, listener};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::time::Duration;
use vfio_user::Client;
use wire::attestation::{Extension, Request as Control};

fn registers(number: u128) -> Vec<nsm::Extension> {
    [nsm::of_machine(b"kernel", "quiet", None), nsm::of_instance(&instance(number))].concat()
}

#[test]
fn an_instance_gets_documents_and_what_it_adds_lasts_until_it_starts_again() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.attach(&host, &id, &registers(1)), "done");
    let mut guest = card.boot(&id);
    let Response::DescribeNSM { module_id, locked_pcrs, .. } = guest.ask(&Request::DescribeNSM) else {
        panic!()
    };
    assert!(module_id.starts_with(&format!("{id}-enc")), "{module_id}");
    assert_eq!(locked_pcrs, (0..16).collect::<Vec<_>>());
    let started = guest.register(4);
    assert!(started.0 && started.1 != [0; 48]);
    assert!(guest.document(b"once").windows(4).any(|part| part == b"once"));

    let extend = Request::ExtendPCR { index: 16, data: b"kernel arguments".to_vec().into() };
    assert!(matches!(guest.ask(&extend), Response::ExtendPCR { .. }));
    assert_eq!(guest.ask(&Request::LockPCR { index: 16 }), Response::LockPCR);
    let added = guest.register(16);
    // Neither a driver that is loaded again nor a reset of the function takes it back.
    guest.start();
    assert_eq!(guest.register(16), added);
    guest.client.reset().unwrap();
    guest.client.write(vfio_user::pci::CONFIG, 4, &[6, 0]).unwrap();
    guest.start();
    assert_eq!(guest.register(16), added);
    assert_eq!(guest.ask(&extend), Response::Error(ErrorCode::ReadOnlyIndex));

    let mut next = card.boot(&id);
    assert_eq!(next.register(16), (false, vec![0; 48]));
    assert_eq!(next.register(4), started);
    let Response::DescribeNSM { module_id: other, .. } = next.ask(&Request::DescribeNSM) else { panic!() };
    assert_ne!(other, module_id, "each start has its own");
    assert!(guest.client.read(0, 0, &mut [0]).is_err(), "the machine before is let go");
}

#[test]
fn an_instance_sees_nothing_of_another() {
    let (host, card) = (Host::new(), Card::start());
    let mut guests: Vec<Guest> = (1..=3)
        .map(|number| {
            assert_eq!(card.attach(&host, &instance(number), &registers(number)), "done");
            card.boot(&instance(number))
        })
        .collect();
    let values: Vec<_> = guests.iter_mut().map(|guest| guest.register(4)).collect();
    assert!(values[0] != values[1] && values[1] != values[2]);
    let extend = Request::ExtendPCR { index: 20, data: b"mine".to_vec().into() };
    guests[1].ask(&extend);
    guests[1].ask(&Request::LockPCRs { range: 32 });
    for other in [0, 2] {
        assert_eq!(guests[other].register(20), (false, vec![0; 48]));
    }
    // A guest that never takes its answers keeps nobody waiting.
    guests[0].send(&[0x6b]);
    guests[0].send(&[0x6b]);
    assert!(guests[2].document(b"").len() > 1000);
    assert_eq!(card.ask(&Control::Detach { instance: instance(2) }, &[]), "done");
    assert!(guests[1].client.read(0, 0, &mut [0]).is_err());
    assert_eq!(card.status().len(), 2);
    assert_eq!(guests[2].register(4), values[2]);
}

#[test]
fn without_a_certificate_there_are_no_documents_and_with_one_there_are() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.ask(&Control::Attach(attach(&id, &[], Vec::new())), &[]), "done");
    let mut guest = card.boot(&id);
    let ask = Request::Attestation { user_data: None, nonce: None, public_key: None };
    assert_eq!(guest.ask(&ask), Response::Error(ErrorCode::InternalError));
    assert!(!card.status()[0].certified);
    let certify = |chain| Control::Certify { instance: id.clone(), chain };
    assert_eq!(card.ask(&certify(host.certify(&id, &card.public_key)), &[]), "done");
    assert!(matches!(guest.ask(&ask), Response::Attestation { .. }));
    let other = Card::start();
    assert_eq!(card.ask(&certify(host.certify(&id, &other.public_key)), &[]), "attestation.key");
    assert_eq!(card.ask(&certify(Vec::new()), &[]), "attestation.chain");
    assert!(matches!(guest.ask(&ask), Response::Attestation { .. }), "the one that it had");
    let random = |guest: &mut Guest| match guest.ask(&Request::GetRandom) {
        Response::GetRandom { random } => random,
        other => panic!("{other:?}"),
    };
    let (one, two) = (random(&mut guest), random(&mut guest));
    assert!(one.len() == 256 && one != two);
}

#[test]
fn the_main_board_connects_by_itself_and_each_time_is_a_start() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("function.sock");
    let socket = listener(&path);
    let request = attach(&id, &registers(1), host.certify(&id, &card.public_key));
    assert_eq!(card.ask(&Control::Attach(request), &[&socket]), "done");
    for _ in 0..20 {
        let mut guest = Guest::boot(Client::connect(&path).unwrap());
        assert_eq!(guest.register(16), (false, vec![0; 48]));
        guest.ask(&Request::ExtendPCR { index: 16, data: vec![1].into() });
    }
}

#[test]
fn what_the_controller_cannot_mean_is_refused() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    let (one, other) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let request = || Control::Attach(attach(&id, &[], Vec::new()));
    assert_eq!(card.ask(&request(), &[&one]), "request.malformed");
    assert_eq!(card.ask(&request(), &[&one, &other]), "request.malformed");
    let with = |registers: Vec<Extension>| {
        Control::Attach(wire::attestation::Attach { instance: id.clone(), registers, chain: Vec::new() })
    };
    let extension = |register, length| Extension { register, data: vec![0; length] };
    assert_eq!(card.ask(&with(vec![extension(32, 1)]), &[]), "request.malformed");
    assert_eq!(card.ask(&with(vec![extension(0, 513)]), &[]), "request.malformed");
    assert_eq!(card.ask(&with(vec![extension(0, 1); 129]), &[]), "request.malformed");
    for unknown in [Control::Connect { instance: id.clone() }, Control::Detach { instance: id.clone() }] {
        let fds = if matches!(unknown, Control::Connect { .. }) { vec![&one] } else { Vec::new() };
        assert_eq!(card.ask(&unknown, &fds), "attestation.unknown");
    }
    assert_eq!(card.ask(&request(), &[]), "done");
    assert_eq!(card.ask(&request(), &[]), "attestation.exists");
    assert_eq!(card.ask(&Control::Connect { instance: id.clone() }, &[]), "request.malformed");
    for number in 2..=256 {
        assert_eq!(card.attach(&host, &instance(number), &[]), "done");
    }
    assert_eq!(card.attach(&host, &instance(257), &[]), "attestation.full");
}

#[test]
fn a_guest_that_breaks_its_queue_breaks_its_own_until_it_starts_anew() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.attach(&host, &id, &[]), "done");
    assert_eq!(card.attach(&host, &instance(2), &[]), "done");
    let (mut guest, mut other) = (card.boot(&id), card.boot(&instance(2)));
    type Break = fn(&mut Guest);
    let ways: [(&str, Break); 7] = [
        ("the answer's buffer first", |guest| {
            guest.descriptor(0, 0x5000, 0x100, 2, 0);
            guest.descriptor(1, 0x3000, 4, 0, 0);
            guest.offer(&[0, 1]);
        }),
        ("one chain of both", |guest| {
            guest.descriptor(0, 0x3000, 4, 1, 1);
            guest.descriptor(1, 0x5000, 0x100, 2, 0);
            guest.offer(&[0, 0]);
        }),
        ("a loop", |guest| {
            guest.descriptor(0, 0x3000, 4, 1, 0);
            guest.offer(&[0, 1]);
        }),
        ("no such descriptor", |guest| guest.offer(&[0x7777, 1])),
        ("an indirect one", |guest| {
            guest.descriptor(0, 0x3000, 16, 4, 0);
            guest.offer(&[0, 1]);
        }),
        ("memory that is not there", |guest| {
            guest.descriptor(0, 0xffff_ffff_ffff_f000, 0x1000, 0, 0);
            guest.descriptor(1, 0x5000, 0x3000, 2, 0);
            guest.offer(&[0, 1]);
        }),
        ("more than there can be", |guest| {
            guest.memory.store_u16(rig::AVAILABLE + 2, 9000).unwrap();
            guest.offer(&[]);
            guest.memory.store_u16(rig::AVAILABLE + 2, 9000).unwrap();
            guest.set(0x1000, &[0, 0]);
        }),
    ];
    for (name, act) in ways {
        act(&mut guest);
        let broken = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            guest.status() & 0x40 != 0
        });
        assert!(broken, "{name}");
        assert!(other.register(0).0, "{name}");
        guest.start();
        assert!(guest.register(0).0, "{name}");
    }
    // An answer's buffer without room is given back empty.
    guest.descriptor(0, 0x3000, 1, 0, 0);
    guest.descriptor(1, 0x5000, 3, 2, 0);
    guest.offer(&[0, 1]);
    assert_eq!(guest.answer().unwrap().len(), 3);
}

#[test]
fn registers_can_be_reached_through_configuration_space() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.attach(&host, &id, &[]), "done");
    let mut guest = card.boot(&id);
    let mut config = [0; 256];
    guest.client.read(7, 0, &mut config).unwrap();
    assert_eq!(config[..4], [0xf4, 0x1a, 0x61, 0x10]);
    let (mut at, mut kinds, mut window) = (usize::from(config[0x34]), Vec::new(), 0);
    while at != 0 {
        if config[at] == 9 {
            kinds.push(config[at + 3]);
            window = if config[at + 3] == 5 { at } else { window };
        }
        at = usize::from(config[at + 1]);
    }
    assert_eq!(kinds, [1, 2, 3, 5]);
    let at = |offset: usize| u64::try_from(window + offset).unwrap();
    guest.client.write(7, at(8), &0x14u32.to_le_bytes()).unwrap();
    guest.client.write(7, at(12), &1u32.to_le_bytes()).unwrap();
    let mut status = [0];
    guest.client.read(7, at(16), &mut status).unwrap();
    assert_eq!(status, [0xf]);
    guest.client.write(7, at(16), &[0]).unwrap();
    assert_eq!(guest.status(), 0, "the driver has reset the device");
}

#[test]
fn the_card_is_confined_idles_and_ends_with_its_controller() {
    let (host, mut card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.attach(&host, &id, &registers(1)), "done");
    let mut guest = card.boot(&id);
    guest.document(b"");
    let seen = ["NoNewPrivs", "Seccomp", "Threads"].map(|field| card.proc_status(field));
    assert_eq!(seen, ["1", "2", "1"]);
    assert_ne!(card.proc_status("VmLck"), "0 kB", "its key could be written to swap");
    let time = || {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", card.child.id())).unwrap();
        let fields: Vec<_> = text.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = time();
    std::thread::sleep(Duration::from_secs(1));
    assert!(time() - before < 2, "an idle card takes no processor time");
    let (nobody, _) = wire::Link::pair().unwrap();
    drop(std::mem::replace(&mut card.control, nobody));
    assert!(card.child.wait().unwrap().success());
}

#[test]
fn what_is_asked_before_the_driver_is_ready_is_answered_then() {
    let (host, card, id) = (Host::new(), Card::start(), instance(1));
    assert_eq!(card.attach(&host, &id, &[]), "done");
    let mut guest = card.boot(&id);
    guest.prepare();
    guest.send(b"\x69GetRandom");
    assert_eq!(card.status()[0].requests, 0);
    guest.set(0x14, &[0xf]);
    assert!(guest.answer().unwrap().len() > 256);
}
