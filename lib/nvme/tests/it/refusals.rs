//! What is not implemented, or not valid, is refused with the right status.

use crate::common::*;
use nvme::Ram;
use nvme::spec::{Status, SubmissionEntry};

/// NVMe's status codes, written here a second time on purpose.
const INVALID_OPCODE: u16 = 0x001;
const INVALID_FIELD: u16 = 0x002;
const DATA_TRANSFER_ERROR: u16 = 0x004;
const INVALID_NAMESPACE: u16 = 0x00b;
const COMMAND_SEQUENCE: u16 = 0x00c;
const PRP_OFFSET_INVALID: u16 = 0x013;
const LBA_OUT_OF_RANGE: u16 = 0x080;
const COMPLETION_QUEUE_INVALID: u16 = 0x100;
const INVALID_QUEUE_IDENTIFIER: u16 = 0x101;
const INVALID_QUEUE_SIZE: u16 = 0x102;
const INVALID_INTERRUPT_VECTOR: u16 = 0x108;
const INVALID_LOG_PAGE: u16 = 0x109;
const INVALID_QUEUE_DELETION: u16 = 0x10c;
const FEATURE_NOT_SAVEABLE: u16 = 0x10d;
const FEATURE_NOT_NAMESPACE_SPECIFIC: u16 = 0x10f;

const PAGE_IN_RAM: u64 = 0x60_0000;
const NOT_RAM: u64 = 1 << 40;

fn prp(entry: SubmissionEntry, prp1: u64) -> SubmissionEntry {
    SubmissionEntry { prp1: prp1.into(), ..entry }
}

#[test]
fn admin_opcodes() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let known = [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x7c];
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        let status = admin(&mut driver, entry(opcode, 0, 0, 0, 0)).unwrap_err();
        assert_eq!(status.code(), INVALID_OPCODE, "opcode {opcode:#x}");
    }
    for opcode in known {
        for flags in [1, 2, 0x40, 0x80, 0xc0] {
            let command = SubmissionEntry { flags, ..entry(opcode, 0, 0, 0, 0) };
            assert_eq!(
                admin(&mut driver, command).unwrap_err().code(),
                INVALID_FIELD,
                "{opcode:#x} {flags:#x}"
            );
        }
    }
}

#[test]
fn io_opcodes() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let known = [0x00, 0x01, 0x02, 0x08, 0x09];
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        let done = run(&mut driver, 0, entry(opcode, 1, 0, 0, 0));
        assert_eq!(done.status.code(), INVALID_OPCODE, "opcode {opcode:#x}");
    }
    for opcode in known {
        for flags in [1, 2, 0x40, 0x80, 0xc0] {
            let command = SubmissionEntry { flags, ..entry(opcode, 1, 0, 0, 0) };
            assert_eq!(run(&mut driver, 0, command).status.code(), INVALID_FIELD, "{opcode:#x} {flags:#x}");
        }
        for nsid in [0, 2, 0xffff_fffe] {
            let done = run(&mut driver, 0, entry(opcode, nsid, 0, 0, 0));
            assert_eq!(done.status.code(), INVALID_NAMESPACE, "{opcode:#x} {nsid:#x}");
        }
    }
    let everywhere = run(&mut driver, 0, entry(0, 0xffff_ffff, 0, 0, 0));
    assert_eq!(everywhere.status, Status::SUCCESS, "flush takes the broadcast namespace");
    assert_eq!(run(&mut driver, 0, entry(1, 0xffff_ffff, 0, 0, 0)).status.code(), INVALID_NAMESPACE);
    assert_eq!(board.borrow().disk.flushes, 1);
}

#[test]
fn io_fields() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let last = BLOCKS as u32 - 1;
    let cases: &[(&str, SubmissionEntry, u16)] = &[
        ("read of 513 blocks", prp(entry(2, 1, 0, 0, 512), PAGE_IN_RAM), INVALID_FIELD),
        ("read past the end", prp(entry(2, 1, last, 0, 1), PAGE_IN_RAM), LBA_OUT_OF_RANGE),
        ("write past the end", prp(entry(1, 1, last + 1, 0, 0), PAGE_IN_RAM), LBA_OUT_OF_RANGE),
        ("read that overflows", prp(entry(2, 1, !0, !0, 1), PAGE_IN_RAM), LBA_OUT_OF_RANGE),
        ("zeroes past the end", entry(8, 1, 0, 0, 0xffff), LBA_OUT_OF_RANGE),
        ("write with a directive", prp(entry(1, 1, 0, 0, 1 << 20), PAGE_IN_RAM), INVALID_FIELD),
        ("byte-aligned buffer", prp(entry(2, 1, 0, 0, 0), PAGE_IN_RAM + 2), PRP_OFFSET_INVALID),
        ("data not in memory", prp(entry(2, 1, 0, 0, 0), NOT_RAM), DATA_TRANSFER_ERROR),
        ("ranges not in memory", prp(entry(9, 1, 0, 4, 0), NOT_RAM), DATA_TRANSFER_ERROR),
    ];
    for (what, command, code) in cases {
        assert_eq!(run(&mut driver, 0, *command).status.code(), *code, "{what}");
    }
    // The last block itself is there.
    assert_eq!(run(&mut driver, 0, prp(entry(2, 1, last, 0, 0), PAGE_IN_RAM)).status, Status::SUCCESS);
    assert_eq!(board.borrow().controller.counters().failed, cases.len() as u64);
}

#[test]
fn queue_creation_and_deletion() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    // The driver asked for one pair, so one is all that may be made; make room for more after a reset.
    let one = prp(entry(5, 0, 15 << 16 | 2, 1, 0), PAGE_IN_RAM);
    assert_eq!(admin(&mut driver, one).unwrap_err().code(), INVALID_QUEUE_IDENTIFIER);
    driver.stop().unwrap();
    let mut driver = start(&board, &ram, &nvme::driver::Options { queues: 3, ..options() });
    for pair in [3, 2] {
        assert_eq!(admin(&mut driver, entry(4, 0, pair, 0, 0)).unwrap_err().code(), INVALID_QUEUE_DELETION);
        assert_eq!(admin(&mut driver, entry(0, 0, pair, 0, 0)), Ok(0));
    }
    assert_eq!(admin(&mut driver, entry(4, 0, 3, 0, 0)), Ok(0));
    // Now: pair 1, completion queue 2 without submission queue, 3 is free.
    let cases: &[(&str, SubmissionEntry, u16)] = &[
        ("CQ 0", prp(entry(5, 0, 15 << 16, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("CQ 4 of 3", prp(entry(5, 0, 15 << 16 | 4, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("CQ 65535", prp(entry(5, 0, 15 << 16 | 0xffff, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("CQ 1 again", prp(entry(5, 0, 15 << 16 | 1, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("CQ of one entry", prp(entry(5, 0, 3, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_SIZE),
        ("CQ of 1025 entries", prp(entry(5, 0, 1024 << 16 | 3, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_SIZE),
        ("CQ not contiguous", prp(entry(5, 0, 15 << 16 | 3, 0, 0), PAGE_IN_RAM), INVALID_FIELD),
        ("CQ not aligned", prp(entry(5, 0, 15 << 16 | 3, 1, 0), PAGE_IN_RAM + 64), PRP_OFFSET_INVALID),
        (
            "CQ vector 5 of 5",
            prp(entry(5, 0, 15 << 16 | 3, 5 << 16 | 3, 0), PAGE_IN_RAM),
            INVALID_INTERRUPT_VECTOR,
        ),
        ("SQ 0", prp(entry(1, 0, 15 << 16, 2 << 16 | 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("SQ 1 again", prp(entry(1, 0, 15 << 16 | 1, 2 << 16 | 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("SQ of one entry", prp(entry(1, 0, 2, 2 << 16 | 1, 0), PAGE_IN_RAM), INVALID_QUEUE_SIZE),
        ("SQ not contiguous", prp(entry(1, 0, 15 << 16 | 2, 2 << 16, 0), PAGE_IN_RAM), INVALID_FIELD),
        (
            "SQ not aligned",
            prp(entry(1, 0, 15 << 16 | 2, 2 << 16 | 1, 0), PAGE_IN_RAM + 8),
            PRP_OFFSET_INVALID,
        ),
        ("SQ on the admin CQ", prp(entry(1, 0, 15 << 16 | 2, 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        ("SQ on CQ 9", prp(entry(1, 0, 15 << 16 | 2, 9 << 16 | 1, 0), PAGE_IN_RAM), INVALID_QUEUE_IDENTIFIER),
        (
            "SQ on no CQ",
            prp(entry(1, 0, 15 << 16 | 2, 3 << 16 | 1, 0), PAGE_IN_RAM),
            COMPLETION_QUEUE_INVALID,
        ),
        ("delete SQ 0", entry(0, 0, 0, 0, 0), INVALID_QUEUE_IDENTIFIER),
        ("delete SQ 2", entry(0, 0, 2, 0, 0), INVALID_QUEUE_IDENTIFIER),
        ("delete CQ 0", entry(4, 0, 0, 0, 0), INVALID_QUEUE_IDENTIFIER),
        ("delete CQ 3", entry(4, 0, 3, 0, 0), INVALID_QUEUE_IDENTIFIER),
        ("number of queues, too late", entry(9, 0, 7, 0, 0), COMMAND_SEQUENCE),
        ("shadow pages not aligned", prp(entry(0x7c, 0, 0, 0, 0), PAGE_IN_RAM + 4), INVALID_FIELD),
        ("shadow pages not there", prp(entry(0x7c, 0, 0, 0, 0), NOT_RAM), DATA_TRANSFER_ERROR),
    ];
    for (what, command, code) in cases {
        assert_eq!(admin(&mut driver, *command).map_err(Status::code), Err(*code), "{what}");
    }
    assert_eq!(admin(&mut driver, prp(entry(1, 0, 15 << 16 | 2, 2 << 16 | 1, 0), PAGE_IN_RAM)), Ok(0));
    let ids: Vec<_> = board.borrow().controller.queues().map(|queue| (queue.id, queue.size)).collect();
    assert_eq!(ids, [(0, 32), (1, 64), (2, 16)]);
}

#[test]
fn entry_sizes_must_be_set_before_queues_are_made() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &nvme::driver::Options { queues: 2, ..options() });
    for id in [2, 1] {
        admin(&mut driver, entry(0, 0, id, 0, 0)).unwrap();
    }
    admin(&mut driver, entry(4, 0, 2, 0, 0)).unwrap();
    let (cq, sq) = (entry(5, 0, 15 << 16 | 2, 1, 0), entry(1, 0, 15 << 16 | 1, 1 << 16 | 1, 0));
    for (cc, cq_fits, sq_fits) in [(1, false, false), (1 | 6 << 16, false, true), (1 | 4 << 20, true, false)]
    {
        driver.write32(nvme::spec::registers::CC, cc).unwrap();
        for (command, fits, delete) in
            [(cq, cq_fits, entry(4, 0, 2, 0, 0)), (sq, sq_fits, entry(0, 0, 1, 0, 0))]
        {
            let outcome = admin(&mut driver, prp(command, PAGE_IN_RAM)).map_err(Status::code);
            assert_eq!(outcome, if fits { Ok(0) } else { Err(INVALID_QUEUE_SIZE) }, "CC {cc:#x}");
            if fits {
                admin(&mut driver, delete).unwrap();
            }
        }
    }
}

#[test]
fn log_pages() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    for page in [0, 6, 7, 8, 0x0d, 0x70, 0x80, 0x81, 0xc0, 0xd1, 0xff] {
        let command = prp(entry(2, 0, page | 3 << 16, 0, 0), PAGE_IN_RAM);
        assert_eq!(admin(&mut driver, command).unwrap_err().code(), INVALID_LOG_PAGE, "{page:#x}");
    }
    let cases: &[(&str, SubmissionEntry, u16)] = &[
        ("offset past the end", prp(entry(2, 0, 2, 0, 516), PAGE_IN_RAM), INVALID_FIELD),
        ("offset of two bytes", prp(entry(2, 0, 2, 0, 2), PAGE_IN_RAM), INVALID_FIELD),
        ("more than 256 KiB", prp(entry(2, 0, 2, 1, 0), PAGE_IN_RAM), INVALID_FIELD),
        ("namespace 2", prp(entry(2, 2, 2, 0, 0), PAGE_IN_RAM), INVALID_NAMESPACE),
        ("buffer not there", prp(entry(2, 0, 2, 0, 0), NOT_RAM), DATA_TRANSFER_ERROR),
    ];
    for (what, command, code) in cases {
        assert_eq!(admin(&mut driver, *command).map_err(Status::code), Err(*code), "{what}");
    }
}

#[test]
fn features() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let known = [1, 2, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0e];
    for feature in (0..=0xff).filter(|feature| !known.contains(feature)) {
        for opcode in [9, 0x0a] {
            let status = admin(&mut driver, entry(opcode, 0, feature, 0, 0)).unwrap_err();
            assert_eq!(status.code(), INVALID_FIELD, "opcode {opcode:#x}, feature {feature:#x}");
        }
    }
    for feature in known {
        let status = admin(&mut driver, entry(9, 0, 1 << 31 | feature, 0, 0)).unwrap_err();
        assert_eq!(status.code(), FEATURE_NOT_SAVEABLE, "feature {feature:#x}");
        let status = admin(&mut driver, entry(9, 2, feature, 0, 0)).unwrap_err();
        assert_eq!(status.code(), INVALID_NAMESPACE, "feature {feature:#x}");
    }
    let cases: &[(&str, SubmissionEntry, u16)] = &[
        ("set for the namespace", entry(9, 1, 2, 0, 0), FEATURE_NOT_NAMESPACE_SPECIFIC),
        ("get for all namespaces", entry(0x0a, 0xffff_ffff, 5, 0, 0), INVALID_NAMESPACE),
        ("selection 4", entry(0x0a, 0, 4 << 8 | 1, 0, 0), INVALID_FIELD),
        ("power state 1", entry(9, 0, 2, 1, 0), INVALID_FIELD),
        ("sensor 1", entry(9, 0, 4, 1 << 16, 0), INVALID_FIELD),
        ("get all sensors", entry(0x0a, 0, 4, 15 << 16, 0), INVALID_FIELD),
        ("threshold kind 2", entry(9, 0, 4, 2 << 20, 0), INVALID_FIELD),
        ("errors on deallocated blocks", entry(9, 1, 5, 1 << 16, 0), INVALID_FIELD),
        ("vector 5 of 5", entry(9, 0, 9, 5, 0), INVALID_FIELD),
        ("get vector 5 of 5", entry(0x0a, 0, 9, 5, 0), INVALID_FIELD),
        ("timestamp not there", prp(entry(9, 0, 0x0e, 0, 0), NOT_RAM), DATA_TRANSFER_ERROR),
    ];
    for (what, command, code) in cases {
        assert_eq!(admin(&mut driver, *command).map_err(Status::code), Err(*code), "{what}");
    }
    // Before I/O queues are made, 65536 queues are still too many.
    admin(&mut driver, entry(0, 0, 1, 0, 0)).unwrap();
    admin(&mut driver, entry(4, 0, 1, 0, 0)).unwrap();
    for counts in [0xffff, 0xffff_0000] {
        assert_eq!(admin(&mut driver, entry(9, 0, 7, counts, 0)).unwrap_err().code(), INVALID_FIELD);
    }
    assert_eq!(admin(&mut driver, entry(9, 0, 7, 0x0001_0063, 0)), Ok(0x0001_0003));
}

#[test]
fn no_write_cache_means_no_such_feature() {
    let ram = Ram::new(RAM);
    let board = Board::new(nvme::Config { volatile_write_cache: false, ..config() });
    let mut driver = start(&board, &ram, &options());
    for opcode in [9, 0x0a] {
        assert_eq!(admin(&mut driver, entry(opcode, 0, 6, 0, 0)).unwrap_err().code(), INVALID_FIELD);
    }
}
