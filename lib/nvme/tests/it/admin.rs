//! Features, log pages, events and aborts.

use crate::common::*;
use nvme::driver::{Bar, admin_entry};
use nvme::spec::log::{ErrorEntry, Health, VolumeStatistics, id};
use nvme::spec::{AdminOpcode, Feature, Status, SubmissionEntry};
use nvme::{Operation, Ram};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn page<T: FromBytes + IntoBytes + FromZeros>(driver: &mut TestDriver<'_>, code: u8) -> T {
    let mut page = T::new_zeroed();
    driver.log_page(code, 0xffff_ffff, 0, page.as_mut_bytes()).unwrap();
    page
}

#[test]
fn features_keep_what_is_set_until_a_reset() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let cases = [
        (Feature::Arbitration, 0, 0xffff_ffff, 0xffff_ff07),
        (Feature::PowerManagement, 0, 1 << 5, 0),
        (Feature::TemperatureThreshold, 0xffff, 0x0150, 0x0150),
        (Feature::VolatileWriteCache, 1, 0, 0),
        (Feature::InterruptCoalescing, 0, 0x1234, 0x1234),
        (Feature::WriteAtomicity, 0, 1, 1),
        (Feature::AsynchronousEvents, 0, 0xffff_ffff, 0x1ff),
    ];
    for (feature, default, set, reads) in cases {
        assert_eq!(driver.feature(feature).unwrap(), default, "{feature:?}");
        driver.set_feature(feature, set).unwrap();
        assert_eq!(driver.feature(feature).unwrap(), reads, "{feature:?}");
        for (select, value) in [(1, default), (2, default), (3, 1 << 2)] {
            let result = admin(&mut driver, entry(0x0a, 0, select << 8 | feature as u32, 0, 0));
            assert_eq!(result, Ok(value), "{feature:?}, selection {select}");
        }
    }
    // Of a vector, of a threshold, of the namespace.
    driver.set_feature(Feature::InterruptVectorConfiguration, 1 << 16 | 2).unwrap();
    for (vector, value) in [(2, 1 << 16 | 2), (3, 3)] {
        assert_eq!(admin(&mut driver, entry(0x0a, 0, 9, vector, 0)), Ok(value));
    }
    driver.set_feature(Feature::TemperatureThreshold, 1 << 20 | 77).unwrap();
    assert_eq!(admin(&mut driver, entry(0x0a, 0, 4, 1 << 20, 0)), Ok(77));
    assert_eq!(admin(&mut driver, entry(9, 1, 5, 0x99, 0)), Ok(0));
    assert_eq!(admin(&mut driver, entry(0x0a, 1, 5, 0, 0)), Ok(0x99));
    assert_eq!(admin(&mut driver, entry(0x0a, 1, 3 << 8 | 5, 0, 0)), Ok(0b110));
    assert_eq!(driver.feature(Feature::NumberOfQueues).unwrap(), 0);
    let (port, memory) = driver.stop().unwrap();
    let mut driver = nvme::driver::Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    for (feature, default, _, _) in cases {
        assert_eq!(driver.feature(feature).unwrap(), default, "{feature:?} after a reset");
    }
}

#[test]
fn the_timestamp_runs_from_what_the_host_set() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let timestamp = |driver: &mut TestDriver<'_>| {
        let mut bytes = [0; 8];
        let mut get = admin_entry(AdminOpcode::GetFeatures);
        get.cdw10.set(0x0e);
        driver.admin_read(get, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(timestamp(&mut driver), 0);
    let mut set = admin_entry(AdminOpcode::SetFeatures);
    set.cdw10.set(0x0e);
    driver.admin_write(set, &1_700_000_000_000u64.to_le_bytes()).unwrap();
    board.borrow_mut().now += 5_000_000_000;
    let now = timestamp(&mut driver);
    assert_eq!(now >> 48, 0b10, "origin: the host");
    assert!((1_700_000_005_000..1_700_000_005_100).contains(&(now & 0xffff_ffff_ffff)), "{now}");
}

#[test]
fn a_write_cache_turned_off_makes_every_write_durable() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    driver.write(0, &pattern(1, 512)).unwrap();
    assert_eq!(board.borrow().disk.durable_writes, 0);
    driver.set_feature(Feature::VolatileWriteCache, 0).unwrap();
    driver.write(0, &pattern(1, 512)).unwrap();
    driver.write_zeroes(8, 8).unwrap();
    driver.read(0, &mut [0; 512]).unwrap();
    assert_eq!(board.borrow().disk.durable_writes, 2);
}

#[test]
fn volume_statistics_count_what_happened() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(64 * 1024).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    // Writes of 100 µs and 3 ms, reads of 40 µs and 100 s; then a read in flight and a write that fails.
    for (operation, blocks, nanoseconds) in [
        (Operation::Write, 8, 100_000),
        (Operation::Write, 1, 3_000_000),
        (Operation::Read, 16, 40_000),
        (Operation::Read, 1, 100_000_000_000),
    ] {
        driver.submit(0, &transfer(operation, 0, blocks, buffer)).unwrap();
        driver.ring(0).unwrap();
        driver.bar().wait();
        let mut board = board.borrow_mut();
        let tag = board.disk.waiting.pop_front().unwrap().tag();
        // The board looked twice, and took the command at its first look.
        let since = board.now - TICK;
        board.controller.complete(&&ram, tag, Status::SUCCESS, since + nanoseconds);
    }
    driver.submit(0, &transfer(Operation::Write, 0, 1, buffer)).unwrap();
    driver.submit(0, &transfer(Operation::Read, 0, 1, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    board.borrow_mut().disk.failures.push_back(Status::WRITE_FAULT);
    board.borrow_mut().finish(&ram, 0);

    // One dword more than the page has, as the EBS tools ask.
    let mut bytes = [0xee; 4100];
    driver.log_page(id::VOLUME_STATISTICS, 1, 0, &mut bytes).unwrap();
    assert_eq!(bytes[4096..], [0; 4]);
    let page = VolumeStatistics::read_from_bytes(&bytes[..4096]).unwrap();
    assert_eq!(bytes[..4], 0x3c23_b510u32.to_le_bytes());
    assert_eq!((page.read_operations.get(), page.write_operations.get()), (2, 2));
    assert_eq!((page.read_bytes.get(), page.write_bytes.get()), (8704, 4608));
    assert_eq!((page.read_time.get(), page.write_time.get()), (100_000_040, 3100));
    assert_eq!(page.queue_length.get(), 1);
    assert_eq!(page.volume_iops_exceeded.get() + page.instance_throughput_exceeded.get(), 0);
    for (histogram, expected) in [
        (&page.read_latency, vec![(32, 64), (1 << 22, u64::MAX)]),
        (&page.write_latency, vec![(64, 128), (2048, 4096)]),
    ] {
        let bins = &histogram.bin[..histogram.bins.get() as usize];
        assert!(bins.windows(2).all(|pair| pair[0].upper == pair[1].lower), "bins without gaps");
        assert_eq!((bins[0].lower.get(), bins[bins.len() - 1].upper.get()), (0, u64::MAX));
        let hit = bins.iter().filter(|bin| bin.count.get() > 0);
        let hit: Vec<_> = hit.map(|bin| (bin.lower.get(), bin.upper.get(), bin.count.get())).collect();
        let expected: Vec<_> = expected.into_iter().map(|(lower, upper)| (lower, upper, 1)).collect();
        assert_eq!(hit, expected);
    }
    let health = page_of_health(&mut driver);
    assert_eq!((health.host_reads.get(), health.host_writes.get()), (2, 2));
    assert_eq!((health.data_units_read.get(), health.data_units_written.get()), (1, 1));
    assert_eq!(health.media_errors.get(), 1);
    assert_eq!((health.critical_warning, health.available_spare), (0, 100));
}

#[test]
fn statistics_come_in_pieces_and_outlive_a_reset() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    driver.write(0, &pattern(1, 7 * BLOCK)).unwrap();
    driver.read(0, &mut [0; 2 * BLOCK]).unwrap();
    let mut piece = [0; 32];
    driver.log_page(id::VOLUME_STATISTICS, 1, 8, &mut piece).unwrap();
    let counters = [1u64, 1, 1024, 3584].map(u64::to_le_bytes);
    assert_eq!(piece, counters.as_flattened());
    // A read in flight at the reset ends too.
    board.borrow_mut().pace = Pace::Hold;
    driver.submit(0, &transfer(Operation::Read, 0, 1, 0x1000)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    board.borrow_mut().pace = Pace::Oldest;
    let (port, memory) = driver.stop().unwrap();
    let mut driver = nvme::driver::Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    let after: VolumeStatistics = page(&mut driver, id::VOLUME_STATISTICS);
    assert_eq!((after.read_operations.get(), after.write_operations.get()), (2, 1));
    assert_eq!(after.queue_length.get(), 0);
}

fn page_of_health(driver: &mut TestDriver<'_>) -> Health {
    page(driver, id::HEALTH)
}

#[test]
fn health_tells_busy_and_power_on_time() {
    const MINUTE: u64 = 60_000_000_000;
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    driver.submit(0, &transfer(Operation::Read, 0, 1, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    board.borrow_mut().now += 3 * MINUTE;
    assert_eq!(page_of_health(&mut driver).busy_time.get(), 3, "still busy");
    board.borrow_mut().finish(&ram, 0);
    board.borrow_mut().now += 121 * MINUTE;
    let health = page_of_health(&mut driver);
    assert_eq!((health.busy_time.get(), health.power_on_hours.get()), (3, 2));
    assert_eq!(health.power_cycles.get(), 1);
}

#[test]
fn the_error_log_names_the_command() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let empty: [ErrorEntry; 16] = page(&mut driver, id::ERRORS);
    assert_eq!(empty.as_bytes(), [0; 1024]);
    for lba in 0..20u32 {
        let done = run(&mut driver, 0, entry(2, 1, lba, 1, 0));
        assert_eq!(done.status.code(), Status::LBA_OUT_OF_RANGE.code());
        assert_eq!(done.status.bits() >> 13, 0b11, "More, Do Not Retry");
    }
    let done = run(&mut driver, 0, entry(0xaa, 7, 1, 1, 1));
    let log: [ErrorEntry; 16] = page(&mut driver, id::ERRORS);
    let counts: Vec<_> = log.iter().map(|entry| entry.count.get()).collect();
    assert_eq!(counts, (6..=21).rev().collect::<Vec<_>>(), "newest first, the oldest gone");
    assert_eq!((log[0].sq_id.get(), log[0].cid.get(), log[0].nsid.get()), (1, done.cid, 7));
    assert_eq!(log[0].status.get() >> 1 & 0x7ff, Status::INVALID_OPCODE.code());
    assert_eq!((log[0].lba.get(), log[1].lba.get()), (0, 1 << 32 | 19));
    assert_eq!(page_of_health(&mut driver).error_entries.get(), 21);
}

#[test]
fn firmware_and_effects_pages() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let firmware: [u8; 512] = page(&mut driver, id::FIRMWARE);
    assert_eq!((firmware[0], &firmware[8..16], firmware[16]), (1, &b"1.0     "[..], 0));
    let effects: [zerocopy::little_endian::U32; 1024] = page(&mut driver, id::EFFECTS);
    let set: Vec<_> = (0..1024).filter(|&index| effects[index].get() != 0).collect();
    let (admin, io) = ([0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x7c], [0, 1, 2, 8, 9]);
    assert_eq!(set, admin.into_iter().chain(io.map(|code| 256 + code)).collect::<Vec<_>>());
    assert_eq!((effects[257].get(), effects[258].get()), (3, 1), "writes change content, reads do not");
}

#[test]
fn events_are_told_once_until_their_page_is_read() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let request = admin_entry(AdminOpcode::AsynchronousEventRequest);
    let cids: Vec<_> = (0..4).map(|_| driver.submit_admin(request).unwrap()).collect();
    assert_eq!(admin(&mut driver, request).unwrap_err().code(), 0x105, "the fifth is too many");
    assert_eq!(driver.event().unwrap(), None);
    // A doorbell of a queue that is not there, then a tail that the queue can not have.
    driver.write32(0x1000 + 8 * 4, 1).unwrap();
    driver.bar().wait();
    let event = driver.event().unwrap().unwrap();
    assert_eq!((event.cid, event.status, event.result), (cids[0], Status::SUCCESS, 0x01_00_00));
    driver.write32(0x1000 + 8, 64).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap(), None, "errors are masked until their log page is read");
    let log: [ErrorEntry; 16] = page(&mut driver, id::ERRORS);
    assert_eq!((log[0].sq_id.get(), log[0].cid.get()), (0xffff, 0xffff));
    driver.bar().wait();
    let event = driver.event().unwrap().unwrap();
    assert_eq!((event.cid, event.result), (cids[1], 0x01_01_00));
    // Heads: freeing what is not there.
    let _: [ErrorEntry; 16] = page(&mut driver, id::ERRORS);
    driver.write32(0x1000 + 12, 1).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap().unwrap().result, 0x01_01_00);
    // The queues still work.
    driver.write(3, &pattern(3, 512)).unwrap();
}

#[test]
fn a_resize_is_told_to_who_asked() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    driver.submit_admin(admin_entry(AdminOpcode::AsynchronousEventRequest)).unwrap();
    board.borrow_mut().controller.resize(BLOCKS / 2).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap(), None, "nobody asked for namespace notices");
    driver.set_feature(Feature::AsynchronousEvents, 1 << 8).unwrap();
    board.borrow_mut().controller.resize(BLOCKS / 2).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap(), None, "nothing changed");
    board.borrow_mut().controller.resize(BLOCKS).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap().unwrap().result, 0x04_00_02);
    // Reading with Retain keeps the list; reading without empties it.
    for (retain, first) in [(1 << 15, 1), (0, 1), (0, 0)] {
        let mut list = [0xee; 4096];
        let mut get = admin_entry(AdminOpcode::GetLogPage);
        get.cdw10.set(4 | 1023 << 16 | retain);
        driver.admin_read(get, &mut list).unwrap();
        assert_eq!((list[0], &list[1..]), (first, &[0; 4095][..]));
    }
    assert_eq!(driver.identify_namespace(1).unwrap().nsze.get(), BLOCKS);
    assert!(board.borrow_mut().controller.resize(0).is_err());
}

fn abort(driver: &mut TestDriver<'_>, sq: u32, cid: u16) -> Result<u32, Status> {
    admin(driver, entry(8, 0, u32::from(cid) << 16 | sq, 0, 0))
}

#[test]
fn abort_of_a_command_that_the_backend_drops() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(8192).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    let first = driver.submit(0, &transfer(Operation::Write, 0, 8, buffer)).unwrap().unwrap();
    let second = driver.submit(0, &transfer(Operation::Write, 8, 8, buffer)).unwrap().unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(abort(&mut driver, 1, second), Ok(1), "the backend can not drop it");
    board.borrow_mut().disk.cancels = true;
    assert_eq!(abort(&mut driver, 1, second), Ok(0));
    let done = wait(&mut driver, 0);
    assert_eq!((done.cid, done.status.code()), (second, Status::ABORTED.code()));
    assert_eq!(abort(&mut driver, 1, second), Ok(1), "it is gone");
    board.borrow_mut().finish(&ram, 0);
    assert_eq!(wait(&mut driver, 0), nvme::driver::Done { cid: first, status: Status::SUCCESS, result: 0 });
    assert_eq!(abort(&mut driver, 3, 0).unwrap_err().code(), Status::INVALID_FIELD.code());
    assert_eq!(board.borrow().controller.state().in_flight, 0);
}

#[test]
fn abort_of_a_command_that_was_not_fetched() {
    let (ram, board) = (Ram::new(RAM), Board::new(nvme::Config { max_in_flight: 1, ..config() }));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    let cids =
        [0, 1, 2].map(|lba| driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap().unwrap());
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(board.borrow().disk.waiting.len(), 1);
    assert_eq!(abort(&mut driver, 1, cids[1]), Ok(0));
    assert_eq!(abort(&mut driver, 1, 55), Ok(1), "no such command");
    board.borrow_mut().pace = Pace::Oldest;
    let done = [(); 3].map(|()| wait(&mut driver, 0)).map(|done| (done.cid, done.status.code()));
    assert_eq!(done, [(cids[0], 0), (cids[1], Status::ABORTED.code()), (cids[2], 0)]);
    assert_eq!(board.borrow().controller.counters().writes, 2);
}

#[test]
fn an_abort_does_not_outlive_the_queue() {
    for reset in [false, true] {
        let (ram, board) = (Ram::new(RAM), Board::new(nvme::Config { max_in_flight: 1, ..config() }));
        let mut driver = start(&board, &ram, &options());
        let buffer = driver.allocate(4096).unwrap();
        board.borrow_mut().pace = Pace::Hold;
        let cids =
            [0, 1].map(|lba| driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap().unwrap());
        driver.ring(0).unwrap();
        driver.bar().wait();
        assert_eq!(abort(&mut driver, 1, cids[1]), Ok(0));
        board.borrow_mut().pace = Pace::Oldest;
        if reset {
            board.borrow_mut().finish(&ram, 0);
            let (port, memory) = driver.stop().unwrap();
            driver = nvme::driver::Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
        } else {
            board.borrow_mut().disk.cancels = true;
            driver.admin(entry(0, 0, 1, 0, 0)).unwrap();
            let rings = driver.allocate(4096).unwrap();
            let create = SubmissionEntry { prp1: rings.into(), ..entry(1, 0, 63 << 16 | 1, 1 << 16 | 1, 0) };
            driver.admin(create).unwrap();
            let mut flush = entry(0, 1, 0, 0, 0);
            flush.cid.set(cids[1]);
            nvme::Memory::write(&ram, rings, flush.as_bytes()).unwrap();
            let failed = board.borrow().controller.counters().failed;
            driver.write32(0x1008, 1).unwrap();
            driver.bar().wait();
            assert_eq!(board.borrow().controller.counters().failed, failed);
            continue;
        }
        // Every identifier once: none is aborted.
        for lba in 0..63 {
            driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap().unwrap();
        }
        driver.ring(0).unwrap();
        for _ in 0..63 {
            assert_eq!(wait(&mut driver, 0).status, Status::SUCCESS);
        }
    }
}

#[test]
fn abort_of_an_event_request() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let cid = driver.submit_admin(admin_entry(AdminOpcode::AsynchronousEventRequest)).unwrap();
    driver.bar().wait();
    assert_eq!(abort(&mut driver, 0, cid + 1), Ok(1));
    assert_eq!(abort(&mut driver, 0, cid), Ok(0));
    let done = driver.event().unwrap().unwrap();
    assert_eq!((done.cid, done.status.code()), (cid, Status::ABORTED.code()));
    // Neither requests that come and go nor aborts that find nothing use up the completion queue.
    for _ in 0..100 {
        let cid = driver.submit_admin(admin_entry(AdminOpcode::AsynchronousEventRequest)).unwrap();
        assert_eq!(abort(&mut driver, 0, cid + 1), Ok(1));
        assert_eq!(abort(&mut driver, 0, cid), Ok(0));
        assert_eq!(driver.event().unwrap().unwrap().cid, cid);
    }
}
