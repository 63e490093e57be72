//! A machine goes to another process, or is copied into one.

use crate::{
    image::elf,
    process::Hypervisor,
    rig::{device, wait},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use wire::{
    Link,
    hypervisor::{Parcel, Reply, Request, State},
};

/// What the guest says again and again: the alphabet and four bytes of its generation id.
const ROUND: usize = 26 + 4;

/// Waits a thousand steps before each letter; keeps the next letter in BL.
fn alphabet() -> Vec<u8> {
    let mut code = vec![0x66, 0xBA, 0xF8, 0x03, 0xB3, b'a'];
    code.extend([0xB9, 0x00, 0x04, 0, 0, 0x49, 0x75, 0xFD]);
    code.extend([0x88, 0xD8, 0xEE, 0xFE, 0xC3, 0x80, 0xFB, b'z' + 1, 0x75, 0xEE]);
    code.extend([0xA1, 0x00, 0x10, 0xD0, 0xFE]);
    code.extend([0xEE, 0xC1, 0xE8, 8, 0xEE, 0xC1, 0xE8, 8, 0xEE, 0xC1, 0xE8, 8, 0xEE]);
    code.extend([0xB3, b'a', 0xEB, 0xD8]);
    code
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// A machine that has said some, paused.
fn paused(kvm: &OwnedFd) -> Hypervisor {
    let hypervisor = Hypervisor::start();
    hypervisor.create(kvm, hypervisor.parameters(), &elf(&alphabet())).unwrap();
    hypervisor.ask(&Request::Resume).unwrap();
    wait("some rounds", || hypervisor.statistics().cpus[0].port_out > 70);
    hypervisor.ask(&Request::Pause).unwrap();
    hypervisor
}

/// Hands a machine from one process to another, which answers with a fault's code, or not.
fn hand_over(kvm: &OwnedFd, from: &Hypervisor, to: &Hypervisor, copy: bool) -> Result<(), String> {
    let (out, into) = pair();
    to.link.send(&Request::StateIn, &[kvm.as_fd(), into.as_fd()]).unwrap();
    drop(into);
    let Reply::Done = from.link.call(&Request::StateOut { copy }, &[out.as_fd()]).unwrap() else {
        panic!("the state does not go out")
    };
    match to.link.receive().unwrap().0 {
        Reply::Done => Ok(()),
        Reply::Fault(fault) => Err(fault.code),
        other => panic!("{other:?}"),
    }
}

/// Runs on for some rounds and gives the generation ids that were said, in order and each once.
fn go_on(hypervisor: &mut Hypervisor) -> Vec<[u8; 4]> {
    assert_eq!(hypervisor.statistics().state, State::Paused);
    let before = hypervisor.console().len();
    let begin = hypervisor.statistics().cpus[0].port_out;
    hypervisor.ask(&Request::Resume).unwrap();
    wait("more rounds", || hypervisor.statistics().cpus[0].port_out > begin + 70);
    hypervisor.ask(&Request::Pause).unwrap();
    let said = hypervisor.console();
    assert!(said.len() >= before + 70, "{} after {before}", said.len());
    let mut ids = Vec::new();
    for round in said.chunks(ROUND) {
        let (letters, id) = round.split_at(round.len().min(26));
        assert!(b"abcdefghijklmnopqrstuvwxyz".starts_with(letters), "{:?}", String::from_utf8_lossy(letters));
        ids.extend(<[u8; 4]>::try_from(id));
    }
    ids.dedup();
    ids
}

#[test]
fn a_machine_goes_on_in_another_process() {
    let Some(kvm) = device() else { return };
    let from = paused(&kvm);
    let mut to = from.another();
    hand_over(&kvm, &from, &to, false).unwrap();
    assert_eq!(from.ask(&Request::Resume), Err("instance.none".to_owned()), "it has left");
    from.stop();
    assert_eq!(go_on(&mut to).len(), 1, "the same machine has the same generation id");
    to.stop();
}

#[test]
fn a_copy_has_memory_and_a_generation_id_of_its_own() {
    let Some(kvm) = device() else { return };
    let mut from = paused(&kvm);
    let mut to = from.another();
    hand_over(&kvm, &from, &to, true).unwrap();
    let copies = go_on(&mut to);
    // Half a word may have been read from each: at most one mixture.
    assert!((2..=3).contains(&copies.len()), "{copies:?}");
    let ids = go_on(&mut from);
    assert_eq!(ids, copies[..1]);
    from.stop();
    to.stop();
}

#[test]
fn what_is_no_state_is_refused_and_a_running_machine_stays() {
    let Some(kvm) = device() else { return };
    let (out, peer) = pair();
    let hypervisor = paused(&kvm);
    hypervisor.ask(&Request::Resume).unwrap();
    let reply = hypervisor.link.call(&Request::StateOut { copy: false }, &[out.as_fd()]).unwrap();
    assert!(matches!(reply, Reply::Fault(fault) if fault.code == "state.running"));
    hypervisor.ask(&Request::Pause).unwrap();
    drop(peer);
    let reply = hypervisor.link.call(&Request::StateOut { copy: false }, &[out.as_fd()]).unwrap();
    assert!(matches!(reply, Reply::Fault(fault) if fault.code == "state.link"));
    hypervisor.ask(&Request::Resume).unwrap();
    hypervisor.stop();

    let header = |version, state| Parcel::Header { version, state, functions: 0, copy: false };
    let garbage = Parcel::State { bytes: vec![0xA5; 100] };
    let memory = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    let hypervisor = Hypervisor::start();
    for (code, parcels) in [
        ("state.version", vec![header(2, 1)]),
        ("state.malformed", vec![header(1, 100), garbage.clone()]),
        ("state.malformed", vec![header(1, u64::MAX), garbage.clone(), Parcel::State { bytes: Vec::new() }]),
        ("state.malformed", vec![header(1, 50), garbage.clone()]),
        ("state.malformed", vec![garbage]),
        ("state.link", vec![header(1, 100)]),
    ] {
        let (ours, theirs) = pair();
        hypervisor.link.send(&Request::StateIn, &[kvm.as_fd(), theirs.as_fd()]).unwrap();
        drop(theirs);
        let ours: Link<Parcel, Parcel> = Link::new(ours);
        for parcel in &parcels {
            ours.send(parcel, &[memory.as_fd()]).unwrap();
        }
        drop(ours);
        let reply = hypervisor.link.receive().unwrap().0;
        assert!(matches!(&reply, Reply::Fault(fault) if fault.code == code), "{code}: {reply:?}");
    }
    hypervisor.create(&kvm, hypervisor.parameters(), &elf(&alphabet())).unwrap();
    hypervisor.stop();
}
