//! Volumes without a listening socket: the controller connects who may use them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::{Operation, driver::Command, driver::Options};
use nvme_host::Function;
use rig::{Card, Disk, GUEST, Guest, boot, drive, host};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair};
use seal::{Context, seal};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};
use vfio_user::Client;
use wire::card::{FunctionState, Request};

const SIZE: u64 = 8 << 20;

fn card() -> Card {
    Card::start(Path::new(env!("CARGO_BIN_EXE_azote-volume-card")))
}

fn attach(card: &Card, disk: &Disk) {
    let context = Context { host: host(), volume: disk.volume.clone() };
    let request = disk.request(seal(&card.public_key, &context, &disk.key).unwrap());
    assert_eq!(card.call(&request, &[&disk.open()]), "done");
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn connect(card: &Card, disk: &Disk, socket: &impl AsFd) -> String {
    card.call(&Request::Connect { volume: disk.volume.clone() }, &[socket])
}

fn start(socket: OwnedFd, options: &Options) -> Guest {
    let ram = rig::ram();
    let mut client = Client::new(socket).unwrap();
    client.set_timeout(Some(Duration::from_secs(20)));
    drive(Function::share(client, &ram).unwrap(), ram, options)
}

/// Connects and starts the driver.
fn boot_connected(card: &Card, disk: &Disk) -> Guest {
    let (ours, theirs) = pair(SocketType::STREAM);
    assert_eq!(connect(card, disk, &theirs), "done");
    start(ours, &Options { entries: 64, shadow_doorbells: true, ..Options::default() })
}

#[test]
fn one_at_a_time_is_connected_and_who_is_gone_makes_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    attach(&card, &disk);
    assert_eq!(card.status()[0].state, FunctionState::Waiting);
    for round in 0..16_u8 {
        let mut guest = boot_connected(&card, &disk);
        assert_eq!(card.status()[0].state, FunctionState::Enabled);
        assert_eq!(connect(&card, &disk, &pair(SocketType::STREAM).1), "volume.connected");
        guest.write(u64::from(round), &[round; 512]).unwrap();
        assert_eq!(card.detach(&disk, false), "volume.busy");
        // It goes without a word, with commands that the card has not answered or not even seen.
        for slot in 0..8 {
            let buffer = GUEST / 2 + slot * 65536;
            let write = Operation::Write;
            let command = Command { operation: write, lba: 1024, blocks: 128, buffer, durable: true };
            guest.submit(0, &command).unwrap().unwrap();
        }
        guest.ring(0).unwrap();
    }
    let mut guest = boot_connected(&card, &disk);
    for round in 0..16_u8 {
        let mut back = [0; 512];
        guest.read(u64::from(round), &mut back).unwrap();
        assert_eq!(back, [round; 512]);
    }
    guest.shutdown().unwrap();
    assert_eq!(card.detach(&disk, false), "done");
    assert!(guest.read(0, &mut [0; 512]).is_err(), "the socket is gone");
}

#[test]
fn who_came_and_went_while_the_former_left_makes_room_too() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    attach(&card, &disk);
    for _ in 0..20 {
        let (ours, theirs) = pair(SocketType::STREAM);
        assert_eq!(connect(&card, &disk, &theirs), "done");
        drop((ours, theirs));
    }
    boot_connected(&card, &disk).write(0, &[1; 512]).unwrap();
    assert_eq!(card.detach(&disk, true), "done");
}

#[test]
fn what_cannot_be_connected_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, listening) = (Disk::new(folder.path(), 1, SIZE), Disk::new(folder.path(), 2, SIZE));
    let card = card();
    let (ours, theirs) = pair(SocketType::STREAM);
    assert_eq!(connect(&card, &disk, &theirs), "volume.unknown");
    attach(&card, &disk);
    assert_eq!(card.attach(&listening), "done");
    assert_eq!(connect(&card, &listening, &theirs), "request.malformed");
    boot(&listening, &Options::default()).write(0, &[1; 512]).unwrap();

    let alone = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let inet = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let wrong: [&dyn AsFd; 6] = [
        &alone,
        &inet,
        &listening.listen(),
        &disk.open(),
        &pair(SocketType::DGRAM).0,
        &pair(SocketType::SEQPACKET).0,
    ];
    let request = Request::Connect { volume: disk.volume.clone() };
    for (index, fd) in wrong.into_iter().enumerate() {
        assert_eq!(card.call(&request, &[fd]), "request.malformed", "{index}");
    }
    assert_eq!(card.call(&request, &[]), "request.malformed");
    assert_eq!(card.call(&request, &[&theirs, &theirs]), "request.malformed");
    assert_eq!(card.status()[0].state, FunctionState::Waiting);

    assert_eq!(connect(&card, &disk, &theirs), "done");
    start(ours, &Options::default()).write(0, &[1; 512]).unwrap();
    assert_eq!(card.detach(&disk, true), "done");
    assert_eq!(connect(&card, &disk, &theirs), "volume.unknown");
}
