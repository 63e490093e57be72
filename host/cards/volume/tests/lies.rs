//! Guests and hypervisors that lie: they get errors, the card lives, other volumes notice nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::{
    Memory,
    driver::{Bar, Options},
    spec::{IoOpcode, Status, SubmissionEntry},
};
use rig::{Card, Disk, GUEST, Guest, boot, connect, drive};
use rustix::io::Errno;
use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    time::Duration,
};
use vfio_user::{Client, ClientError, DmaMap};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-volume-card");
const SIZE: u64 = 8 << 20;

fn command(opcode: IoOpcode, lba: u64, blocks: u32, prp1: u64, prp2: u64) -> SubmissionEntry {
    let mut entry = SubmissionEntry { opcode: opcode as u8, ..SubmissionEntry::default() };
    entry.nsid.set(1);
    entry.prp1.set(prp1);
    entry.prp2.set(prp2);
    entry.cdw10.set(u32::try_from(lba & 0xffff_ffff).unwrap());
    entry.cdw11.set(u32::try_from(lba >> 32).unwrap());
    entry.cdw12.set(blocks - 1);
    entry
}

fn execute(guest: &mut Guest, entry: SubmissionEntry) -> Status {
    let (queue, memory, bar) = guest.queue(0).unwrap();
    queue.submit_entry(memory, entry).unwrap().unwrap();
    queue.ring(memory, bar).unwrap();
    let start = std::time::Instant::now();
    loop {
        if let Some(done) = guest.reap(0).unwrap() {
            guest.acknowledge(0).unwrap();
            return done.status;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        std::thread::yield_now();
    }
}

#[test]
fn commands_that_name_bad_memory_or_blocks_fail_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, other) = (Disk::new(folder.path(), 1, SIZE), Disk::new(folder.path(), 2, SIZE));
    let card = Card::start(Path::new(PROGRAM));
    assert_eq!(card.attach(&disk), "done");
    assert_eq!(card.attach(&other), "done");
    let mut guest = boot(&disk, &Options { shadow_doorbells: true, ..Options::default() });
    let mut bystander = boot(&other, &Options::default());
    bystander.write(0, &[3; 4096]).unwrap();
    let buffer = GUEST / 2;
    for opcode in [IoOpcode::Read, IoOpcode::Write] {
        for (entry, expected) in [
            (command(opcode, 0, 8, GUEST, 0), Status::DATA_TRANSFER_ERROR),
            (command(opcode, 0, 8, GUEST - 2048, GUEST), Status::DATA_TRANSFER_ERROR),
            (command(opcode, 0, 8, u64::MAX - 4095, 0), Status::DATA_TRANSFER_ERROR),
            (command(opcode, 0, 64, buffer, GUEST + 8), Status::DATA_TRANSFER_ERROR),
            (command(opcode, 0, 64, buffer, buffer + 4), Status::PRP_OFFSET_INVALID),
            (command(opcode, 0, 8, buffer + 2, 0), Status::PRP_OFFSET_INVALID),
            (command(opcode, SIZE / 512, 1, buffer, 0), Status::LBA_OUT_OF_RANGE),
            (command(opcode, SIZE / 512 - 1, 2, buffer, 0), Status::LBA_OUT_OF_RANGE),
            (command(opcode, u64::MAX, 1, buffer, 0), Status::LBA_OUT_OF_RANGE),
            (command(opcode, 0, 1024, buffer, buffer), Status::INVALID_FIELD),
        ] {
            assert_eq!(execute(&mut guest, entry).code(), expected.code(), "{entry:?}");
        }
    }
    assert_eq!(execute(&mut guest, command(IoOpcode::Read, 0, 8, buffer, 0)), Status::SUCCESS);
    let mut back = [0; 4096];
    bystander.read(0, &mut back).unwrap();
    assert_eq!(back, [3; 4096]);
    assert!(card.status().iter().any(|volume| volume.errors >= 20));
}

#[test]
fn buffers_at_every_offset_work_and_those_that_cut_sectors_too() {
    let folder = tempfile::tempdir().unwrap();
    for direct in [false, true] {
        let mut disk = Disk::new(folder.path(), 1, SIZE);
        disk.direct = direct;
        let card = Card::start(Path::new(PROGRAM));
        assert_eq!(card.attach(&disk), "done");
        let mut guest = boot(&disk, &Options::default());
        let data: Vec<u8> = (0..4096_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let (from, to) = (GUEST / 2, GUEST / 2 + (1 << 20));
        for (at, offset) in [0, 4, 256, 508, 512, 1000, 2048, 3584, 4092].into_iter().enumerate() {
            let lba = 64 * at as u64;
            guest.memory().write(from + offset, &data).unwrap();
            guest.memory().write(to + offset, &[0; 4096]).unwrap();
            let second = |start: u64| if offset == 0 { 0 } else { start + 4096 };
            let write = command(IoOpcode::Write, lba, 8, from + offset, second(from));
            assert_eq!(execute(&mut guest, write), Status::SUCCESS);
            let read = command(IoOpcode::Read, lba, 8, to + offset, second(to));
            assert_eq!(execute(&mut guest, read), Status::SUCCESS);
            let mut back = vec![0; 4096];
            guest.memory().read(to + offset, &mut back).unwrap();
            assert!(back == data, "offset {offset}, direct {direct}");
        }
        drop(guest);
        assert_eq!(card.detach(&disk, true), "done");
        let mut image = std::fs::read(disk.image()).unwrap();
        xts::Xts::new(&disk.key).unwrap().decrypt_slice(0, &mut image);
        for at in 0..9 {
            assert!(image[at * 64 * 512..at * 64 * 512 + 4096] == data);
        }
    }
}

#[test]
fn memory_that_goes_away_is_used_no_more_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = Card::start(Path::new(PROGRAM));
    assert_eq!(card.attach(&disk), "done");
    let mut guest = boot(&disk, &Options { shadow_doorbells: true, entries: 256, ..Options::default() });
    let buffer = GUEST / 2;
    guest.write(0, &[9; 1 << 20]).unwrap();
    for round in 0..20_u8 {
        for index in 0..100 {
            let entry = command(IoOpcode::Read, index * 8, 8, buffer + index * 4096, 0);
            let (queue, memory, _) = guest.queue(0).unwrap();
            queue.submit_entry(memory, entry).unwrap().unwrap();
        }
        guest.ring(0).unwrap();
        let (_, _, function) = guest.queue(0).unwrap();
        function.0.dma_unmap(0, GUEST).unwrap();
        // From here on nothing that the card does may show in guest memory.
        let mark = [round | 0x80; 4096];
        guest.memory().write(buffer + 50 * 4096, &mark).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let mut back = [0; 4096];
        guest.memory().read(buffer + 50 * 4096, &mut back).unwrap();
        assert_eq!(back, mark);
        let file = guest.memory().as_fd().try_clone_to_owned().unwrap();
        let whole = guest.memory().map();
        let (queue, memory, function) = guest.queue(0).unwrap();
        function.0.dma_map(whole, Some(file.as_fd())).unwrap();
        // Queue memory that is missing while doorbells are polled may be fatal: then the driver resets.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let mut fatal = false;
        while queue.outstanding() > 0 && !fatal {
            if queue.reap(memory).unwrap().is_some() {
                queue.acknowledge(memory, function).unwrap();
            } else {
                let mut status = [0; 4];
                function.0.read(0, 0x1c, &mut status).unwrap();
                fatal = status[0] & 2 != 0;
            }
            assert!(std::time::Instant::now() < deadline);
        }
        if fatal {
            let (function, ram) = guest.into_parts();
            guest =
                drive(function, ram, &Options { shadow_doorbells: true, entries: 256, ..Options::default() });
        }
    }
    let mut back = vec![0; 1 << 20];
    guest.read(0, &mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 9));
}

#[test]
fn hypervisors_that_speak_nonsense_lose_their_session_only() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), 1, SIZE);
    let card = Card::start(Path::new(PROGRAM));
    assert_eq!(card.attach(&disk), "done");
    for nonsense in [&[0_u8; 64][..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n", &[1, 0, 1, 0, 4, 0, 0, 0, 0]]
    {
        let mut socket = UnixStream::connect(disk.socket()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = socket.write_all(nonsense);
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
    }
    let ram = rig::ram();
    let mut function = connect(&disk, &ram).unwrap();
    let map = DmaMap { iova: 1 << 40, len: 1 << 30, offset: 0, readable: true, writable: true };
    assert!(function.0.dma_map(map, Some(ram.as_fd())).is_err(), "longer than its file");
    assert!(function.0.dma_map(ram.map(), Some(ram.as_fd())).is_err(), "twice");
    assert!(function.0.dma_unmap(4096, 4096).is_err(), "never mapped");
    let mut guest = drive(function, ram, &Options::default());
    guest.write(0, &[1; 512]).unwrap();
    assert_eq!(card.detach(&disk, true), "done");
}

#[test]
fn memory_that_may_shrink_needs_an_option_and_ends_its_own_card_only() {
    let folder = tempfile::tempdir().unwrap();
    let disks = [1, 2].map(|number| Disk::new(folder.path(), number, SIZE));
    let [strict, open] =
        [&[][..], &["--unsealed-memory"]].map(|options| Card::start_with(Path::new(PROGRAM), options));
    assert_eq!((strict.attach(&disks[0]), open.attach(&disks[1])), ("done".to_owned(), "done".to_owned()));
    // Files on tmpfs are what hypervisors name with `shared=on` and a path: they take no seals.
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(GUEST).unwrap();
    let map = DmaMap { iova: 0, len: GUEST, offset: 0, readable: true, writable: true };
    let connect = |disk: &Disk| Client::connect(&disk.socket()).unwrap();
    let refused = connect(&disks[0]).dma_map(map, Some(file.as_fd()));
    assert!(matches!(refused, Err(ClientError::Refused(Errno::PERM))), "{refused:?}");

    let mut function = nvme_host::Function(connect(&disks[1]));
    function.0.dma_map(map, Some(file.as_fd())).unwrap();
    function.enable().unwrap();
    // Admin queues at 0 and 4096, two entries each; then the memory goes, and the doorbell makes the card look.
    for (register, value) in [(0x24, 0x0001_0001_u64), (0x28, 0), (0x30, 4096), (0x14, 0x0046_0001)] {
        function.write(register, &value.to_le_bytes()[..if register > 0x24 { 8 } else { 4 }]).unwrap();
    }
    file.set_len(0).unwrap();
    function.write(0x1000, &1_u32.to_le_bytes()).unwrap();
    let mut open = open;
    assert_eq!(open.child.wait().unwrap().signal(), Some(rustix::process::Signal::BUS.as_raw()));
    assert_eq!(strict.status().len(), 1, "another card goes on");
}
