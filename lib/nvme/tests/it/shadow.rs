//! Shadow doorbells: when the guest must ring, and when it need not.

use crate::common::*;
use nvme::driver::{Bar, Options};
use nvme::spec::SubmissionEntry;
use nvme::spec::log::id;
use nvme::{Memory, Operation, Ram};

fn shadowed() -> Options {
    Options { shadow_doorbells: true, entries: 16, ..options() }
}

#[test]
fn a_busy_controller_needs_one_ring_a_lap() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &shadowed());
    let before = board.borrow().register_writes;
    for lba in 0..160 {
        driver.write(lba, &pattern(lba, BLOCK)).unwrap();
        if lba == 14 {
            assert_eq!(board.borrow().register_writes, before, "none in the first lap");
        }
    }
    let rings = board.borrow().register_writes - before;
    // 160 commands are ten laps of the submission queue and of the completion queue.
    assert_eq!(rings, 20);
    assert_eq!(
        board.borrow().disk.bytes[..160 * BLOCK],
        (0..160).flat_map(|lba| pattern(lba, BLOCK)).collect::<Vec<_>>()
    );
}

#[test]
fn before_it_sleeps_it_asks_for_a_ring() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &shadowed());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Stop;
    for lap in 0..40 {
        assert!(board.borrow_mut().controller.arm(&&ram), "nothing to do");
        let before = board.borrow().register_writes;
        driver.submit(0, &transfer(Operation::Write, lap, 1, buffer)).unwrap();
        driver.ring(0).unwrap();
        assert_eq!(board.borrow().register_writes, before + 1, "the first command wakes it, lap {lap}");
        driver.submit(0, &transfer(Operation::Write, lap + 100, 1, buffer)).unwrap();
        driver.ring(0).unwrap();
        assert!(!board.borrow_mut().controller.arm(&&ram), "there is work: no sleep");
        board.borrow_mut().pace = Pace::Oldest;
        driver.bar().wait();
        board.borrow_mut().pace = Pace::Stop;
        while driver.reap(0).unwrap().is_some() {}
        driver.acknowledge(0).unwrap();
    }
    assert_eq!(board.borrow().controller.counters().writes, 80);
}

#[test]
fn with_a_full_completion_queue_it_asks_for_the_head() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &shadowed());
    let buffer = driver.allocate(4096).unwrap();
    for _ in 0..2 {
        for lba in 0..15 {
            driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap();
        }
        driver.ring(0).unwrap();
        driver.bar().wait();
        while driver.reap(0).unwrap().is_some() {}
    }
    // Fifteen completions are not acknowledged, fifteen commands wait.
    assert!(board.borrow_mut().controller.arm(&&ram));
    let before = board.borrow().register_writes;
    driver.acknowledge(0).unwrap();
    assert_eq!(board.borrow().register_writes, before + 1);
    assert!(!board.borrow_mut().controller.arm(&&ram));
    driver.bar().wait();
    assert_eq!(board.borrow().controller.counters().writes, 30);
}

#[test]
fn register_values_are_only_a_call_to_look() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &shadowed());
    let buffer = driver.allocate(4096).unwrap();
    driver.submit(0, &transfer(Operation::Write, 0, 1, buffer)).unwrap();
    // Late and wrong register values: neither taken nor told.
    for value in [5, 0xffff] {
        driver.write32(0x1008, value).unwrap();
        driver.write32(0x100c, value).unwrap();
    }
    driver.bar().wait();
    assert_eq!(board.borrow().controller.counters().writes, 0);
    let mut errors = [0; 64];
    driver.log_page(id::ERRORS, 0, 0, &mut errors).unwrap();
    assert_eq!(errors, [0; 64]);
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(board.borrow().controller.counters().writes, 1);
}

#[test]
fn a_wrong_shadow_value_is_told_once_and_ignored() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &shadowed());
    driver.write(0, &pattern(1, BLOCK)).unwrap();
    // The driver's shadow pages are the last that it took before this one.
    let next = driver.allocate(4096).unwrap();
    let tail = next - 2 * 4096 + 8;
    assert_eq!(ram.load_u32(tail), Ok(1));
    for value in [16, 16, 0x1_0001, 16] {
        ram.store_u32(tail, value).unwrap();
        for _ in 0..5 {
            driver.bar().wait();
        }
    }
    let mut errors = [0; 16 * 64];
    driver.log_page(id::ERRORS, 0, 0, &mut errors).unwrap();
    assert_eq!(errors[..8], 3u64.to_le_bytes(), "16, 10001h, 16");
    ram.store_u32(tail, 1).unwrap();
    driver.write(1, &pattern(2, BLOCK)).unwrap();
    assert_eq!(board.borrow().controller.counters().writes, 2);
}

#[test]
fn without_shadow_doorbells_arm_tells_of_waiting_work() {
    let (ram, board) = (Ram::new(RAM), Board::new(nvme::Config { max_in_flight: 2, ..config() }));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    assert!(board.borrow_mut().controller.arm(&&ram));
    board.borrow_mut().pace = Pace::Hold;
    for lba in 0..4 {
        driver.submit(0, &transfer(Operation::Write, lba, 1, buffer)).unwrap();
    }
    driver.ring(0).unwrap();
    assert!(!board.borrow_mut().controller.arm(&&ram));
    driver.bar().wait();
    assert!(
        board.borrow_mut().controller.arm(&&ram),
        "two in flight are all it may hold: sleep until one ends"
    );
    board.borrow_mut().finish(&ram, 0);
    assert!(!board.borrow_mut().controller.arm(&&ram));
    // A doorbell that is wrong is work too, while somebody waits for events.
    driver.bar().wait();
    driver
        .submit_admin(nvme::driver::admin_entry(nvme::spec::AdminOpcode::AsynchronousEventRequest))
        .unwrap();
    driver.bar().wait();
    assert!(board.borrow_mut().controller.arm(&&ram));
    driver.write32(0x1000 + 33 * 8, 0).unwrap();
    assert!(!board.borrow_mut().controller.arm(&&ram));
    // A shutdown is work until its flush is out.
    driver.bar().wait();
    driver.write32(nvme::spec::registers::CC, 0x0046_4001).unwrap();
    while !board.borrow().disk.waiting.is_empty() {
        board.borrow_mut().finish(&ram, 0);
    }
    assert!(!board.borrow_mut().controller.arm(&&ram));
}

#[test]
fn doorbells_are_copied_when_shadowing_begins_and_when_queues_are_made() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    for lba in 0..5 {
        driver.write(lba, &pattern(lba, BLOCK)).unwrap();
    }
    let pages = driver.allocate(4 * 4096).unwrap();
    ram.write(pages, &[0xaa; 64]).unwrap();
    let config =
        SubmissionEntry { prp1: pages.into(), prp2: (pages + 4096).into(), ..entry(0x7c, 0, 0, 0, 0) };
    driver.admin(config).unwrap();
    let queue_1 = |ram: &Ram| [8, 12].map(|offset| ram.load_u32(pages + offset).unwrap());
    assert_eq!(queue_1(&ram), [5, 5]);
    assert_eq!(
        [0, 4, 16].map(|offset| ram.load_u32(pages + offset).unwrap()),
        [0xaaaa_aaaa; 3],
        "others untouched"
    );
    for delete in [entry(0, 0, 1, 0, 0), entry(4, 0, 1, 0, 0)] {
        driver.admin(delete).unwrap();
    }
    let rings = pages + 2 * 4096;
    driver.admin(SubmissionEntry { prp1: rings.into(), ..entry(5, 0, 15 << 16 | 1, 1, 0) }).unwrap();
    assert_eq!(queue_1(&ram), [5, 0]);
    let create = SubmissionEntry { prp1: (rings + 4096).into(), ..entry(1, 0, 15 << 16 | 1, 1 << 16 | 1, 0) };
    driver.admin(create).unwrap();
    assert_eq!(queue_1(&ram), [0, 0]);
}
