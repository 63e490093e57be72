//! Data: random I/O against a model, and every shape of data pointer.

use crate::common::*;
use nvme::driver::{Bar, Command, Driver, Options};
use nvme::spec::{Status, SubmissionEntry};
use nvme::{Memory, Operation, Ram};
use proptest::prelude::*;

/// Commands that run side by side touch different lanes of the disk, so that their order does not matter.
const LANES: u64 = 8;
const LANE: u64 = BLOCKS / LANES;

#[derive(Debug, Clone)]
struct Step {
    operation: Operation,
    start: u64,
    blocks: u64,
    /// Where in its buffer the data begins.
    skew: u64,
    durable: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        4 => Just(Operation::Read),
        4 => Just(Operation::Write),
        1 => Just(Operation::WriteZeroes),
        1 => Just(Operation::Flush),
    ];
    (operation, 0..LANE, 1..=512u64, 0..1024u64, any::<bool>()).prop_map(
        |(operation, start, blocks, skew, durable)| Step {
            operation,
            start,
            blocks: blocks.min(LANE - start),
            skew: skew * 4,
            durable,
        },
    )
}

#[derive(Debug, Clone)]
enum Round {
    /// Commands side by side, on queue 0 or 1.
    Commands(Vec<(Step, usize)>),
    /// A controller reset while reads are in flight.
    Reset,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let commands = prop::collection::vec((step(), 0..2usize), 1..=LANES as usize);
    let round = prop_oneof![12 => commands.prop_map(Round::Commands), 1 => Just(Round::Reset)];
    prop::collection::vec(round, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_what_is_read(
        rounds in rounds(), shadow_doorbells: bool, entries in 3..10u16, newest: bool, seed: u64,
    ) {
        let (ram, board) = (Ram::new(RAM), Board::new(config()));
        let options = Options { queues: 2, entries, shadow_doorbells, ..options() };
        let mut driver = start(&board, &ram, &options);
        let mut buffers = driver.allocate(LANES * 0x42000).unwrap();
        let mut model = vec![0u8; BLOCKS as usize * BLOCK];
        for (number, round) in rounds.into_iter().enumerate() {
            let Round::Commands(steps) = round else {
                board.borrow_mut().pace = Pace::Hold;
                let read = transfer(Operation::Read, 0, 8, buffers);
                driver.submit(0, &read).unwrap();
                driver.ring(0).unwrap();
                driver.bar().wait();
                board.borrow_mut().pace = Pace::Newest;
                let (port, memory) = driver.stop().unwrap();
                driver = Driver::start(port, memory, 0x1000..RAM as u64, &options).unwrap();
                buffers = driver.allocate(LANES * 0x42000).unwrap();
                continue;
            };
            board.borrow_mut().pace = if newest { Pace::Newest } else { Pace::Oldest };
            let mut expected = Vec::new();
            for ((step, queue), lane) in steps.into_iter().zip(0..) {
                let lba = lane * LANE + step.start;
                let buffer = buffers + lane * 0x42000 + step.skew;
                let bytes = (step.blocks as usize) * BLOCK;
                let place = &mut model[lba as usize * BLOCK..][..bytes];
                match step.operation {
                    Operation::Write => {
                        place.copy_from_slice(&pattern(seed ^ number as u64 ^ lane << 32, bytes));
                        ram.write(buffer, place).unwrap();
                    }
                    Operation::WriteZeroes => place.fill(0),
                    Operation::Read => {
                        ram.write(buffer, &vec![0xee; bytes]).unwrap();
                        expected.push((buffer, place.to_vec()));
                    }
                    Operation::Flush => {}
                }
                let command = Command {
                    operation: step.operation,
                    lba,
                    blocks: step.blocks as u32,
                    buffer,
                    durable: step.durable,
                };
                while driver.submit(queue, &command).unwrap().is_none() {
                    prop_assert_eq!(wait_rung(&mut driver, queue), Status::SUCCESS);
                }
            }
            for queue in 0..2 {
                while driver.queue(queue).unwrap().0.outstanding() > 0 {
                    prop_assert_eq!(wait_rung(&mut driver, queue), Status::SUCCESS);
                }
            }
            for (buffer, expected) in expected {
                let mut read = vec![0; expected.len()];
                ram.read(buffer, &mut read).unwrap();
                prop_assert!(read == expected);
            }
            prop_assert!(board.borrow().disk.bytes == model);
        }
        prop_assert_eq!(board.borrow().controller.counters().failed, 0);
        prop_assert_eq!(board.borrow().controller.state().in_flight, 0);
    }

    /// Pages in any order and place, lists that begin anywhere in a page and chain into a second.
    #[test]
    fn data_pointers_of_every_shape(
        blocks in 1..=512u32, skew in 0..1024u64, list_place in 0..512u64, pages in pages(), broken in any::<Option<(u8, u8)>>(),
    ) {
        let (ram, board) = (Ram::new(RAM), Board::new(config()));
        let mut driver = start(&board, &ram, &options());
        let length = u64::from(blocks) * 512;
        let shape = Shape::new(length, skew * 4, list_place * 8, &pages);
        let data = pattern(length, length as usize);
        let mut left = &data[..];
        for &(address, bytes) in &shape.pieces {
            let (now, later) = left.split_at(bytes as usize);
            ram.write(address, now).unwrap();
            left = later;
        }
        let mut write = entry(1, 1, 16, 0, blocks - 1);
        (write.prp1, write.prp2) = (shape.prp1.into(), shape.prp2.into());
        for (address, value) in &shape.entries {
            ram.write(*address, &value.to_le_bytes()).unwrap();
        }
        let mut expected = Status::SUCCESS;
        // Every entry but the first must be page-aligned, the pointer to the next list included.
        if let (Some((which, bit)), false) = (broken, shape.entries.is_empty()) {
            let (address, value) = shape.entries[usize::from(which) % shape.entries.len()];
            ram.write(address, &(value ^ 1 << (bit % 12)).to_le_bytes()).unwrap();
            expected = Status::PRP_OFFSET_INVALID;
        }
        prop_assert_eq!(run(&mut driver, 0, write).status.code(), expected.code());
        let written = &board.borrow().disk.bytes[16 * 512..][..data.len()];
        let right = if expected.is_success() { written == data } else { written.iter().all(|&byte| byte == 0) };
        prop_assert!(right);
    }
}

/// Reaps one completion of commands that were submitted.
fn wait_rung(driver: &mut TestDriver<'_>, queue: usize) -> Status {
    driver.ring(queue).unwrap();
    wait(driver, queue).status
}

const FIRST_PAGE: u64 = 0x40_0000;

/// 67 different pages: 65 for data, two for lists.
fn pages() -> impl Strategy<Value = Vec<u64>> {
    Just((0..200u64).map(|page| FIRST_PAGE + page * 4096).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|pages| pages[..67].to_vec())
}

struct Shape {
    prp1: u64,
    prp2: u64,
    /// Address and bytes of each piece of data.
    pieces: Vec<(u64, u64)>,
    /// Address and value of each list entry.
    entries: Vec<(u64, u64)>,
}

impl Shape {
    fn new(length: u64, skew: u64, list_place: u64, pages: &[u64]) -> Self {
        let first = length.min(4096 - skew);
        let mut pieces = vec![(pages[0] + skew, first)];
        let mut left = length - first;
        for &page in &pages[1..65] {
            if left > 0 {
                pieces.push((page, left.min(4096)));
                left -= left.min(4096);
            }
        }
        let mut shape = Self { prp1: pages[0] + skew, prp2: 0, pieces, entries: Vec::new() };
        match shape.pieces.len() {
            1 => {}
            2 => shape.prp2 = pages[1],
            _ => {
                shape.prp2 = pages[65] + list_place;
                let mut place = shape.prp2;
                for (index, &(address, _)) in shape.pieces.iter().enumerate().skip(1) {
                    let last_place = place % 4096 == 4088;
                    if last_place && index + 1 < shape.pieces.len() {
                        shape.entries.push((place, pages[66]));
                        place = pages[66];
                    }
                    shape.entries.push((place, address));
                    place += 8;
                }
            }
        }
        shape
    }
}

#[test]
fn fua_and_nothing_else_makes_a_write_durable() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    for (opcode, fua, durable) in [(1, 0, 0), (1, 1 << 30, 1), (8, 1 << 30, 2), (8, 0, 2), (2, 1 << 30, 2)] {
        let command = SubmissionEntry { prp1: buffer.into(), ..entry(opcode, 1, 0, 0, fua) };
        assert_eq!(run(&mut driver, 0, command).status, Status::SUCCESS);
        assert_eq!(board.borrow().disk.durable_writes, durable, "opcode {opcode}, FUA {fua:#x}");
    }
}

#[test]
fn zeroes_may_be_more_than_any_transfer() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    board.borrow_mut().disk.bytes.fill(0xff);
    driver.write_zeroes(1, 4094).unwrap();
    let disk = &board.borrow().disk.bytes;
    assert!(disk[512..4095 * 512].iter().all(|&byte| byte == 0));
    assert_eq!((disk[511], disk[4095 * 512]), (0xff, 0xff));
}

#[test]
fn deallocation_is_checked_and_changes_nothing() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    // 256 ranges that begin within a page.
    let place = driver.allocate(3 * 4096).unwrap() + 4096 - 64;
    let mut ranges: Vec<[u8; 16]> = (0..256u64).map(|index| range(index * 16, 16)).collect();
    board.borrow_mut().disk.bytes.fill(7);
    let second_page = (place / 4096 + 1) * 4096;
    let discard = |count: u32, attributes: u32| SubmissionEntry {
        prp1: place.into(),
        prp2: second_page.into(),
        ..entry(9, 1, count - 1, attributes, 0)
    };
    ram.write(place, ranges.as_flattened()).unwrap();
    assert_eq!(run(&mut driver, 0, discard(256, 4)).status, Status::SUCCESS);
    ranges[255] = range(BLOCKS - 15, 16);
    ram.write(place, ranges.as_flattened()).unwrap();
    assert_eq!(run(&mut driver, 0, discard(255, 4)).status, Status::SUCCESS);
    assert_eq!(run(&mut driver, 0, discard(256, 4)).status.code(), Status::LBA_OUT_OF_RANGE.code());
    assert_eq!(run(&mut driver, 0, discard(256, 3)).status, Status::SUCCESS, "other attributes are hints");
    let board = board.borrow();
    assert!(board.disk.waiting.is_empty() && board.disk.deepest == 0, "the storage side hears nothing");
    assert!(board.disk.bytes.iter().all(|&byte| byte == 7));
}

fn range(lba: u64, blocks: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..].copy_from_slice(&lba.to_le_bytes());
    range
}

#[test]
fn a_failure_of_the_medium_reaches_the_guest() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    board.borrow_mut().disk.failures.extend([Status::WRITE_FAULT, Status::UNRECOVERED_READ]);
    let failed = driver.write(0, &[0; 512]).unwrap_err();
    assert!(matches!(failed, nvme::driver::Error::Status(status) if status.code() == 0x280));
    let failed = driver.read(0, &mut [0; 512]).unwrap_err();
    assert!(matches!(failed, nvme::driver::Error::Status(status) if status.code() == 0x281));
    driver.read(0, &mut [0; 512]).unwrap();
    assert_eq!(board.borrow().controller.counters().failed, 2);
}

#[test]
fn long_transfers_go_in_many_commands() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &Options { entries: 4, ..options() });
    let data = pattern(9, BLOCKS as usize * BLOCK);
    driver.write(0, &data).unwrap();
    assert!(board.borrow().disk.bytes == data);
    let mut back = vec![0; data.len() - 3 * BLOCK];
    driver.read(3, &mut back).unwrap();
    assert!(back == data[3 * BLOCK..]);
    assert!(driver.write(0, &[0; 100]).is_err(), "not whole blocks");
}
