//! Attach, detach, what is refused, and what the process is confined to.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::driver::Options;
use rig::{Card, Disk, boot, connect, drive, host};
use seal::{Context, VolumeKey, seal};
use std::{path::Path, time::Duration};
use wire::card::{FunctionState, Request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-volume-card");
const SIZE: u64 = 8 << 20;

fn card() -> Card {
    Card::start(Path::new(PROGRAM))
}

#[test]
fn what_is_written_is_read_back_and_only_ciphertext_is_at_rest() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    assert_eq!(card.attach(&disk), "done");
    let mut guest = boot(&disk, &Options { shadow_doorbells: true, ..Options::default() });
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(2000);
    let text = &text[..65536];
    guest.write(100, text).unwrap();
    guest.flush().unwrap();
    let mut back = vec![0; text.len()];
    guest.read(100, &mut back).unwrap();
    assert!(back == text);
    let mut image = std::fs::read(disk.image()).unwrap();
    assert!(!image.windows(9).any(|part| part == b"brown fox"));
    xts::Xts::new(&disk.key).unwrap().decrypt_slice(0, &mut image);
    assert!(&image[100 * 512..100 * 512 + text.len()] == text);
    guest.write_zeroes(100, 64).unwrap();
    guest.read(100, &mut back).unwrap();
    assert!(back[..64 * 512].iter().all(|byte| *byte == 0) && back[64 * 512..] == text[64 * 512..]);
    let mut image = std::fs::read(disk.image()).unwrap();
    assert!(image[100 * 512..164 * 512].iter().any(|byte| *byte != 0), "zeroes are encrypted too");
    xts::Xts::new(&disk.key).unwrap().decrypt_slice(0, &mut image);
    assert!(image[100 * 512..164 * 512].iter().all(|byte| *byte == 0));
    let status = &card.status()[0];
    assert_eq!((status.state, status.errors), (FunctionState::Enabled, 0));
    assert!(status.reads > 0 && status.writes > 0);
}

#[test]
fn keys_that_are_not_sealed_to_this_card_host_and_volume_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let (ours, other) = (card(), card());
    let context = Context { host: host(), volume: disk.volume.clone() };
    let sealed = seal(&ours.public_key, &context, &disk.key).unwrap();
    for byte in (0..sealed.len()).step_by(7) {
        let mut flipped = sealed.clone();
        flipped[byte] ^= 1;
        assert_eq!(ours.attach_sealed(&disk, flipped), "key.sealed", "byte {byte}");
    }
    assert_eq!(other.attach_sealed(&disk, sealed.clone()), "key.sealed");
    let elsewhere = Context { host: "h-1123456789abcdef0".parse().unwrap(), ..context };
    assert_eq!(
        ours.attach_sealed(&disk, seal(&ours.public_key, &elsewhere, &disk.key).unwrap()),
        "key.sealed"
    );
    assert_eq!(ours.attach_sealed(&disk, Vec::new()), "key.sealed");
    assert!(ours.status().is_empty());
    assert_eq!(ours.attach_sealed(&disk, sealed), "done");
}

#[test]
fn the_wrong_key_reads_noise() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    assert_eq!(card.attach(&disk), "done");
    let mut guest = boot(&disk, &Options::default());
    guest.write(0, &[7; 4096]).unwrap();
    drop(guest);
    assert_eq!(card.detach(&disk, true), "done");
    disk.key = VolumeKey::generate().unwrap();
    assert_eq!(card.attach(&disk), "done");
    let mut back = [0; 4096];
    boot(&disk, &Options::default()).read(0, &mut back).unwrap();
    assert!(back.chunks(16).all(|block| block != [7; 16]));
}

#[test]
fn stores_sockets_and_requests_that_are_wrong_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    let context = Context { host: host(), volume: disk.volume.clone() };
    let sealed = || seal(&card.public_key, &context, &disk.key).unwrap();
    let request = disk.request(sealed());
    let read_only = std::fs::File::open(disk.image()).unwrap();
    assert_eq!(card.call(&request, &[&read_only, &disk.listen()]), "volume.io");
    assert_eq!(card.call(&request, &[&disk.listen(), &disk.listen()]), "volume.io");
    assert_eq!(card.call(&request, &[&disk.open(), &disk.open()]), "request.malformed");
    assert_eq!(card.call(&request, &[&disk.open(), &disk.listen(), &disk.listen()]), "request.malformed");
    assert_eq!(card.call(&request, &[]), "request.malformed");
    disk.open().set_len(SIZE - 4096).unwrap();
    assert_eq!(card.attach(&disk), "volume.size");
    disk.open().set_len(SIZE).unwrap();
    for (size, name) in [(0, "sdf"), (SIZE + 512, "sdf"), (SIZE, ""), (SIZE, "sd\nf")] {
        let Request::Attach(mut attach) = disk.request(sealed()) else { panic!() };
        (attach.size, attach.device_name) = (size, name.to_owned());
        let code = card.call(&Request::Attach(attach), &[&disk.open(), &disk.listen()]);
        assert_eq!(code, "request.malformed", "{size} {name:?}");
    }
    assert_eq!(card.detach(&disk, false), "volume.unknown");
    assert_eq!(card.attach(&disk), "done");
    assert_eq!(card.attach(&disk), "volume.exists");
}

#[test]
fn a_card_takes_so_many_volumes_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let card = card();
    let disks: Vec<Disk> = (1..=65).map(|number| Disk::new(folder.path(), number, SIZE)).collect();
    for disk in &disks[..64] {
        assert_eq!(card.attach(disk), "done");
    }
    assert_eq!(card.attach(&disks[64]), "card.full");
    let mut guests: Vec<_> = disks[..64].iter().map(|disk| boot(disk, &Options::default())).collect();
    for (number, guest) in guests.iter_mut().enumerate() {
        guest.write(0, &[u8::try_from(number).unwrap(); 8192]).unwrap();
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        let mut back = [0; 8192];
        guest.read(0, &mut back).unwrap();
        assert_eq!(back, [u8::try_from(number).unwrap(); 8192]);
    }
    assert_eq!(card.status().len(), 64);
    assert_eq!(card.detach(&disks[3], true), "done");
    assert_eq!(card.attach(&disks[64]), "done");
}

#[test]
fn detach_waits_for_the_driver_or_is_forced() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    assert_eq!(card.attach(&disk), "done");
    assert_eq!(card.status()[0].state, FunctionState::Waiting);
    let ram = rig::ram();
    let function = connect(&disk, &ram).unwrap();
    assert_eq!(card.status()[0].state, FunctionState::Connected);
    let mut guest = drive(function, ram, &Options::default());
    assert_eq!(card.status()[0].state, FunctionState::Enabled);
    assert_eq!(card.detach(&disk, false), "volume.busy");
    guest.write(0, &[1; 512]).unwrap();
    guest.shutdown().unwrap();
    assert_eq!(card.status()[0].state, FunctionState::ShutDown);
    assert_eq!(card.detach(&disk, false), "done");
    assert!(guest.read(0, &mut [0; 512]).is_err(), "the socket is gone");
    assert!(connect(&disk, guest.memory()).is_err(), "nobody listens any more");

    assert_eq!(card.attach(&disk), "done");
    let mut guest = boot(&disk, &Options::default());
    assert_eq!(card.detach(&disk, true), "done");
    assert!(guest.read(0, &mut [0; 512]).is_err());
    match std::fs::read_dir(format!("/proc/{}/fd", card.child.id())) {
        Ok(open) => {
            let open: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).collect();
            assert!(!open.contains(&disk.image()), "the card keeps nothing of it: {open:?}");
        }
        // Only root looks into a process that is not dumpable.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn the_process_is_confined_its_keys_are_locked_and_it_idles() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    assert_eq!((card.proc_status("NoNewPrivs"), card.proc_status("Seccomp")), ("1".into(), "2".into()));
    assert_eq!(card.proc_status("Threads"), "1");
    let locked = || card.proc_status("VmLck").split(' ').next().unwrap().parse::<u64>().unwrap();
    let before = locked();
    assert!(before > 0, "the card's own key");
    assert_eq!(card.attach(&disk), "done");
    assert!(locked() > before, "the volume's key schedule");
    for shadow_doorbells in [false, true] {
        let options = Options { shadow_doorbells, ..Options::default() };
        let mut guest = boot(&disk, &options);
        guest.write(0, &[1; 4096]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let before = card.cpu_time();
        std::thread::sleep(Duration::from_secs(1));
        assert!(card.cpu_time() - before < 0.015, "an idle card takes no processor time");
        guest.read(0, &mut [0; 4096]).unwrap();
    }
    assert_eq!(card.detach(&disk, true), "done");
    assert_eq!(locked(), before, "the key schedule is gone");
}

#[test]
fn the_card_stops_when_the_controller_is_gone() {
    let mut card = card();
    let (other, _) = wire::Link::pair().unwrap();
    drop(std::mem::replace(&mut card.control, other));
    assert!(card.child.wait().unwrap().success());
}

#[test]
fn hypervisors_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = card();
    assert_eq!(card.attach(&disk), "done");
    for round in 0..100_u8 {
        let mut guest = boot(&disk, &Options { shadow_doorbells: round % 2 == 0, ..Options::default() });
        guest.write(u64::from(round), &[round; 512]).unwrap();
        if round % 3 == 0 {
            guest.shutdown().unwrap();
        }
    }
    let mut guest = boot(&disk, &Options::default());
    let mut back = [0; 512];
    for round in 0..100_u8 {
        guest.read(u64::from(round), &mut back).unwrap();
        assert_eq!(back, [round; 512]);
    }
}
