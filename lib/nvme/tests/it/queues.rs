//! Rings: full queues, shared queues, deletion, resets, interrupts.

use crate::common::*;
use nvme::driver::{Bar, Driver, Options, admin_entry};
use nvme::spec::registers::{CC, CSTS, CSTS_FATAL, CSTS_READY};
use nvme::spec::{AdminOpcode, Completion, Status, SubmissionEntry};
use nvme::{Config, Effect, Memory, Operation, Ram};
use zerocopy::IntoBytes;

const SMALL: u16 = 8;

fn small() -> Options {
    Options { entries: SMALL, ..options() }
}

#[test]
fn completions_wait_for_room_and_none_is_lost() {
    for shadow_doorbells in [false, true] {
        let (ram, board) = (Ram::new(RAM), Board::new(config()));
        let mut driver = start(&board, &ram, &Options { shadow_doorbells, ..small() });
        let buffer = driver.allocate(4096).unwrap();
        let fill = |driver: &mut TestDriver<'_>| {
            for lba in 0..u64::from(SMALL) - 1 {
                let command = transfer(Operation::Write, lba, 1, buffer);
                driver.submit(0, &command).unwrap().expect("identifiers are free again");
            }
            driver.ring(0).unwrap();
            driver.bar().wait();
        };
        let reap = |driver: &mut TestDriver<'_>| {
            let ended: Vec<_> = std::iter::from_fn(|| driver.reap(0).unwrap()).collect();
            assert!(ended.iter().all(|done| done.status == Status::SUCCESS));
            ended.len()
        };
        driver.flush().unwrap();
        let effect = board.borrow_mut().controller.write(0x100c, &1u32.to_le_bytes());
        assert_eq!(effect, Effect::None, "room where there was some is no news");
        fill(&mut driver);
        assert_eq!(reap(&mut driver), 7);
        // The driver has reaped but not told, and submits as much again: for several laps.
        for round in 1..20 {
            fill(&mut driver);
            assert_eq!(reap(&mut driver), 0, "the completion queue is full: nothing may be posted");
            assert_eq!(board.borrow().controller.counters().writes, round * 7, "nor fetched");
            let head = (1 + round as u32 * 7) % u32::from(SMALL);
            let effect = board.borrow_mut().controller.write(0x100c, &head.to_le_bytes());
            assert_eq!(effect, Effect::Poll, "room in a full queue lets work go on");
            driver.acknowledge(0).unwrap();
            driver.bar().wait();
            assert_eq!(reap(&mut driver), 7);
        }
    }
}

#[test]
fn the_backend_never_holds_more_than_it_can() {
    let (ram, board) = (Ram::new(RAM), Board::new(Config { max_in_flight: 5, ..config() }));
    let mut driver = start(&board, &ram, &Options { queues: 2, ..options() });
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    for queue in [0, 1] {
        for lba in 0..20 {
            driver.submit(queue, &transfer(Operation::Read, lba, 1, buffer)).unwrap();
        }
        driver.ring(queue).unwrap();
    }
    driver.bar().wait();
    assert_eq!(board.borrow().disk.waiting.len(), 5);
    let waiting: Vec<_> = board.borrow().controller.queues().map(|queue| queue.waiting).collect();
    assert_eq!(waiting.iter().sum::<u16>(), 35);
    board.borrow_mut().pace = Pace::Newest;
    for _ in 0..20 {
        driver.bar().wait();
    }
    assert_eq!(board.borrow().disk.deepest, 5);
    assert_eq!(board.borrow().controller.counters().reads, 40);
}

#[test]
fn a_budget_is_kept_and_queues_take_turns() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { queues: 2, ..options() });
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Stop;
    for queue in [0, 1] {
        for lba in 0..20 {
            driver.submit(queue, &transfer(Operation::Read, lba, 1, buffer)).unwrap();
        }
        driver.ring(queue).unwrap();
    }
    let mut board = board.borrow_mut();
    let board = &mut *board;
    for taken in 1..=3u64 {
        assert_eq!(board.controller.poll(&&ram, &mut board.disk, 4, taken), 4);
    }
    let waiting: Vec<_> = board.controller.queues().map(|queue| queue.waiting).collect();
    assert!(waiting == [0, 12, 16] || waiting == [0, 16, 12], "{waiting:?}");
    assert_eq!(board.controller.poll(&&ram, &mut board.disk, 100, 9), 28);
}

#[test]
fn two_submission_queues_share_a_completion_queue() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { queues: 2, entries: 16, ..options() });
    // Make submission queue 2 again, on completion queue 1.
    let address = driver.allocate(4096).unwrap();
    driver.admin(entry(0, 0, 2, 0, 0)).unwrap();
    let create = SubmissionEntry { prp1: address.into(), ..entry(1, 0, 15 << 16 | 2, 1 << 16 | 1, 0) };
    driver.admin(create).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    let buffer = driver.allocate(4096).unwrap();
    for index in 0..12u16 {
        driver.submit(0, &transfer(Operation::Read, u64::from(index), 1, buffer)).unwrap();
        let mut command = entry(2, 1, 100 + u32::from(index), 0, 0);
        (command.cid, command.prp1) = ((500 + index).into(), buffer.into());
        ram.write(address + u64::from(index) * 64, command.as_bytes()).unwrap();
    }
    driver.ring(0).unwrap();
    driver.write32(0x1000 + 2 * 8, 12).unwrap();
    driver.bar().wait();
    assert_eq!(board.borrow().disk.waiting.len(), 15, "as many as the completion queue has room for");
    while !board.borrow().disk.waiting.is_empty() {
        board.borrow_mut().finish(&ram, 0);
    }
    let waiting: u16 = board.borrow().controller.queues().map(|queue| queue.waiting).sum();
    assert_eq!(waiting, 24 - 15);
    assert_eq!(board.borrow().controller.counters().reads, 15);
    for users in [2, 1] {
        assert_eq!(admin(&mut driver, entry(4, 0, 1, 0, 0)).unwrap_err().code(), 0x10c);
        driver.admin(entry(0, 0, users, 0, 0)).unwrap();
    }
    driver.admin(entry(4, 0, 1, 0, 0)).unwrap();
}

#[test]
fn a_deleted_queue_waits_for_what_touches_memory() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    for lba in 0..3 {
        driver.submit(0, &transfer(Operation::Read, lba, 1, buffer)).unwrap();
    }
    driver.ring(0).unwrap();
    driver.bar().wait();
    let mut delete = admin_entry(AdminOpcode::DeleteSubmissionQueue);
    delete.cdw10.set(1);
    let cid = driver.submit_admin(delete).unwrap();
    driver.submit(0, &transfer(Operation::Read, 9, 1, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(driver.event().unwrap(), None, "reads are in flight");
    assert_eq!(admin(&mut driver, delete).unwrap_err().code(), 0x101, "it is being deleted");
    assert_eq!(board.borrow().disk.waiting.len(), 3, "nothing more was fetched");
    for left in (0..3).rev() {
        board.borrow_mut().finish(&ram, 0);
        let done = driver.event().unwrap();
        assert_eq!(done.map(|done| (done.cid, done.status)), (left == 0).then_some((cid, Status::SUCCESS)));
    }
    for _ in 0..3 {
        assert_eq!(driver.reap(0).unwrap().unwrap().status, Status::SUCCESS);
    }
    assert_eq!(driver.reap(0).unwrap(), None);
    driver.write32(0x1000 + 8, 5).unwrap();
    assert_eq!(board.borrow().controller.queues().count(), 1);
}

#[test]
fn a_deleted_queue_ends_what_the_backend_can_drop() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    board.borrow_mut().disk.cancels = true;
    for lba in 0..3 {
        driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap();
    }
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(admin(&mut driver, entry(0, 0, 1, 0, 0)), Ok(0));
    for _ in 0..3 {
        assert_eq!(driver.reap(0).unwrap().unwrap().status.code(), 0x008);
    }
    assert!(board.borrow().disk.bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn a_reset_keeps_ready_until_memory_is_left_alone() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    for lba in 0..2 {
        driver.submit(0, &transfer(Operation::Read, lba, 1, buffer)).unwrap();
    }
    driver.ring(0).unwrap();
    driver.bar().wait();
    driver.write32(CC, 0).unwrap();
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY);
    assert!(!board.borrow().controller.state().enabled);
    // An impatient guest enables again: that waits too.
    driver.write32(CC, 0x0046_0001).unwrap();
    board.borrow_mut().finish(&ram, 0);
    assert!(!board.borrow().controller.state().enabled);
    assert_eq!(board.borrow().controller.state().in_flight, 1);
    board.borrow_mut().finish(&ram, 0);
    assert!(board.borrow().controller.state().enabled);
    assert_eq!(driver.reap(0).unwrap(), None, "completions of before the reset are dropped");
    assert_eq!(board.borrow().controller.queues().count(), 1, "only the admin queue is left");
    // A completion of a tag that is not in flight changes nothing.
    let state = board.borrow().controller.state();
    board.borrow_mut().controller.complete(&&ram, nvme::Tag::from_index(1), Status::SUCCESS, 0);
    board.borrow_mut().controller.complete(&&ram, nvme::Tag::from_index(999), Status::SUCCESS, 0);
    assert_eq!(board.borrow().controller.state(), state);
}

#[test]
fn a_function_reset_clears_every_register() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { shadow_doorbells: true, ..options() });
    driver.write(0, &pattern(1, 512)).unwrap();
    assert!(board.borrow().controller.state().shadow_doorbells);
    board.borrow_mut().controller.reset();
    for register in [CC, CSTS, 0x24, 0x28, 0x2c, 0x30, 0x34] {
        assert_eq!(driver.read32(register).unwrap(), 0, "{register:#x}");
    }
    assert!(!board.borrow().controller.state().shadow_doorbells);
    assert_eq!(board.borrow().controller.queues().count(), 0);
    let (port, memory) = driver.into_parts();
    let mut driver = Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    let mut back = [0; 512];
    driver.read(0, &mut back).unwrap();
    assert_eq!(back[..], pattern(1, 512));
}

#[test]
fn a_completion_without_a_place_is_fatal() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { queues: 2, ..options() });
    for delete in [entry(0, 0, 2, 0, 0), entry(4, 0, 2, 0, 0)] {
        driver.admin(delete).unwrap();
    }
    let sq = driver.allocate(4096).unwrap();
    driver.admin(SubmissionEntry { prp1: (1 << 40).into(), ..entry(5, 0, 15 << 16 | 2, 1, 0) }).unwrap();
    driver.admin(SubmissionEntry { prp1: sq.into(), ..entry(1, 0, 15 << 16 | 2, 2 << 16 | 1, 0) }).unwrap();
    ram.write(sq, entry(0, 1, 0, 0, 0).as_bytes()).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    driver.write32(0x1000 + 2 * 8, 1).unwrap();
    driver.bar().wait();
    driver.submit(0, &transfer(Operation::Flush, 0, 0, 0)).unwrap();
    driver.ring(0).unwrap();
    board.borrow_mut().finish(&ram, 0);
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY | CSTS_FATAL);
    // It serves nobody any more, until it is reset, and has no work to do.
    assert!(board.borrow_mut().controller.arm(&&ram));
    board.borrow_mut().pace = Pace::Oldest;
    driver.bar().wait();
    assert_eq!(driver.reap(0).unwrap(), None);
    let (port, memory) = driver.stop().unwrap();
    Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap().flush().unwrap();
}

#[test]
fn interrupts_fire_once_a_batch_and_only_where_enabled() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { queues: 3, interrupts: true, ..options() });
    board.borrow_mut().fired.clear();
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    for queue in [0, 2] {
        for lba in 0..4 {
            driver.submit(queue, &transfer(Operation::Read, lba, 1, buffer)).unwrap();
        }
        driver.ring(queue).unwrap();
    }
    driver.bar().wait();
    assert_eq!(board.borrow().fired, []);
    let mut now = board.borrow_mut();
    for _ in 0..8 {
        let tag = now.disk.waiting.pop_front().unwrap().tag();
        now.controller.complete(&&ram, tag, Status::SUCCESS, 0);
    }
    assert_eq!(now.controller.take_interrupts().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(now.controller.take_interrupts().count(), 0);
    now.pace = Pace::Oldest;
    drop(now);
    let (port, memory) = driver.stop().unwrap();
    let mut driver = Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    for delete in [entry(0, 0, 1, 0, 0), entry(4, 0, 1, 0, 0)] {
        driver.admin(delete).unwrap();
    }
    let rings = driver.allocate(2 * 4096).unwrap();
    driver
        .admin(SubmissionEntry { prp1: rings.into(), ..entry(5, 0, 63 << 16 | 1, 2 << 16 | 1, 0) })
        .unwrap();
    let create = SubmissionEntry { prp1: (rings + 4096).into(), ..entry(1, 0, 63 << 16 | 1, 1 << 16 | 1, 0) };
    driver.admin(create).unwrap();
    board.borrow_mut().fired.clear();
    driver.write32(0x1008, 1).unwrap();
    driver.bar().wait();
    assert_eq!(
        board.borrow().controller.counters().failed,
        1,
        "an entry of zeroes is a flush of no namespace"
    );
    assert_eq!(board.borrow().fired, [], "without IEN nothing fires");
    // What was pending before a reset is forgotten.
    driver.submit_admin(entry(0x0a, 0, 1, 0, 0)).unwrap();
    let mut board = board.borrow_mut();
    let Board { controller, disk, .. } = &mut *board;
    controller.poll(&&ram, disk, 1, 0);
    controller.reset();
    assert_eq!(controller.take_interrupts().count(), 0);
}

#[test]
fn a_completion_tells_queue_head_and_phase() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { queues: 2, entries: 4, ..options() });
    for delete in [entry(0, 0, 2, 0, 0), entry(4, 0, 2, 0, 0)] {
        driver.admin(delete).unwrap();
    }
    let (sq, cq) = (driver.allocate(4096).unwrap(), driver.allocate(4096).unwrap());
    driver.admin(SubmissionEntry { prp1: cq.into(), ..entry(5, 0, 2 << 16 | 2, 1, 0) }).unwrap();
    driver.admin(SubmissionEntry { prp1: sq.into(), ..entry(1, 0, 3 << 16 | 2, 2 << 16 | 1, 0) }).unwrap();
    for index in 0..10u32 {
        let mut flush = entry(0, 1, 0, 0, 0);
        flush.cid.set(0x7000 + index as u16);
        ram.write(sq + u64::from(index % 4) * 64, flush.as_bytes()).unwrap();
        driver.write32(0x1000 + 16, (index + 1) % 4).unwrap();
        driver.bar().wait();
        let mut completion = Completion::default();
        ram.read(cq + u64::from(index % 3) * 16, completion.as_mut_bytes()).unwrap();
        assert_eq!(completion.phase(), index / 3 % 2 == 0, "entry {index}");
        assert_eq!((completion.cid.get(), completion.sq_id.get()), (0x7000 + index as u16, 2));
        assert_eq!(
            (u32::from(completion.sq_head.get()), completion.status()),
            ((index + 1) % 4, Status::SUCCESS)
        );
        driver.write32(0x1000 + 20, (index + 1) % 3).unwrap();
    }
}

#[test]
fn a_completion_tells_how_far_its_queue_was_fetched() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let before = driver.allocate(4096).unwrap();
    // The pages before: PRP lists of the queue (8 pages), then its completion queue.
    let cq = before - 8 * 4096 - 4096;
    for _ in 0..3 {
        let (pair, memory, _) = driver.queue(0).unwrap();
        pair.submit_entry(memory, entry(0xff, 1, 0, 0, 0)).unwrap();
    }
    driver.ring(0).unwrap();
    driver.bar().wait();
    for index in 0..3u16 {
        let mut completion = Completion::default();
        ram.read(cq + u64::from(index) * 16, completion.as_mut_bytes()).unwrap();
        assert_eq!((completion.sq_head.get(), completion.sq_id.get()), (index + 1, 1));
    }
}
