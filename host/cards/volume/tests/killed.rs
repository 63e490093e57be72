//! `kill -9` of the card during writes: what was acknowledged is there when another card takes the volume.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::{
    Memory, Operation,
    driver::{Command, Options},
};
use rig::{Card, Disk, GUEST, boot};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-volume-card");
const PLACES: usize = 256;
const PAGE: usize = 4096;
const DEPTH: usize = 32;

/// What is known of one 4 KiB place: versions are written in order, one at a time.
#[derive(Clone, Copy, Default)]
struct Place {
    issued: u64,
    acknowledged: u64,
}

fn page(place: usize, version: u64) -> Vec<u8> {
    [(place as u64).to_le_bytes(), version.to_le_bytes()].concat().repeat(PAGE / 16)
}

/// Writes until so many writes are acknowledged, kills the card with commands in flight, and takes what it still says.
fn write_until(disk: &Disk, places: &mut [Place; PLACES], enough: u64, kill: impl FnOnce()) {
    let options = Options { entries: 64, shadow_doorbells: true, ..Options::default() };
    let mut guest = boot(disk, &options);
    let mut in_flight: Vec<Option<usize>> = vec![None; 64];
    let (mut next, mut flights, mut kill) = (0_usize, 0, Some(kill));
    let (mut acknowledged, patience) = (0, Instant::now() + Duration::from_secs(30));
    let mut killed: Option<Instant> = None;
    while killed.is_none_or(|at| at.elapsed() < Duration::from_millis(50)) {
        assert!(Instant::now() < patience, "{acknowledged} writes");
        if acknowledged >= enough
            && let Some(kill) = kill.take()
        {
            kill();
            killed = Some(Instant::now());
        }
        while flights < DEPTH && kill.is_some() {
            next = (next * 5 + 17) % PLACES;
            if in_flight.contains(&Some(next)) {
                next += 1;
                break;
            }
            let place = &mut places[next];
            place.issued += 1;
            let buffer = GUEST / 2 + (next * PAGE) as u64;
            guest.memory().write(buffer, &page(next, place.issued)).unwrap();
            let command = Command {
                operation: Operation::Write,
                lba: next as u64 * 8,
                blocks: 8,
                buffer,
                durable: place.issued.is_multiple_of(8),
            };
            let Some(cid) = guest.submit(0, &command).unwrap() else { break };
            in_flight[usize::from(cid)] = Some(next);
            flights += 1;
        }
        let _ = guest.ring(0);
        while let Ok(Some(done)) = guest.reap(0) {
            assert!(done.status.is_success());
            let place = in_flight[usize::from(done.cid)].take().unwrap();
            places[place].acknowledged = places[place].issued;
            acknowledged += 1;
            flights -= 1;
        }
        let _ = guest.acknowledge(0);
    }
}

#[test]
fn no_acknowledged_write_is_lost() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut disk = Disk::new(folder.path(), 1, (PLACES * PAGE) as u64);
    let mut places = [Place::default(); PLACES];
    for round in 0..8 {
        disk.direct = round % 2 == 0;
        let mut card = Card::start(Path::new(PROGRAM));
        assert_eq!(card.attach(&disk), "done");
        write_until(&disk, &mut places, 200 + 1009 * round, || card.child.kill().unwrap());
        card.child.wait().unwrap();

        let card = Card::start(Path::new(PROGRAM));
        assert_eq!(card.attach(&disk), "done");
        let mut guest = boot(&disk, &Options::default());
        for (number, place) in places.iter_mut().enumerate() {
            let mut back = vec![0; PAGE];
            guest.read(number as u64 * 8, &mut back).unwrap();
            if place.issued == 0 {
                continue;
            }
            // The system may tear a write that was under way, but only between sectors.
            for sector in back.chunks(512) {
                let version = u64::from_le_bytes(sector[8..16].try_into().unwrap());
                let valid = (place.acknowledged..=place.issued).contains(&version);
                let old = place.acknowledged == 0 && !sector.starts_with(&(number as u64).to_le_bytes());
                assert!(
                    old || valid && *sector == page(number, version)[..512],
                    "place {number}, round {round}"
                );
            }
            // What a later round may find is what this one found.
            guest.write(number as u64 * 8, &page(number, place.issued)).unwrap();
            place.acknowledged = place.issued;
        }
    }
}
