//! What a driver meets first: registers, enable, identify, shutdown.

use crate::common::*;
use nvme::driver::{Bar, Error, Options};
use nvme::spec::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CC_ENTRY_SIZES, CSTS, CSTS_FATAL, CSTS_READY, CSTS_SHUTDOWN_COMPLETE,
    CSTS_SHUTDOWN_OCCURRING, VS,
};
use nvme::spec::{AdminOpcode, Status, identify::cns};
use nvme::{Config, ConfigError, Controller, Effect, Memory, Ram, Shutdown};

fn read32(controller: &Controller, offset: u64) -> u32 {
    let mut word = [0; 4];
    controller.read(offset, &mut word);
    u32::from_le_bytes(word)
}

fn write32(controller: &mut Controller, offset: u64, value: u32) -> Effect {
    controller.write(offset, &value.to_le_bytes())
}

#[test]
fn registers_read_as_the_specification_lays_them_out() {
    let mut controller = Controller::new(config(), 0).unwrap();
    let mut cap = [0; 8];
    controller.read(CAP, &mut cap);
    let cap = u64::from_le_bytes(cap);
    assert_eq!(cap & 0xffff, 1023, "MQES");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 24 & 0xff, 20, "TO");
    assert_eq!(cap >> 32 & 0xf, 0, "DSTRD");
    assert_eq!(cap >> 37 & 0xff, 1, "CSS");
    assert_eq!(cap >> 48, 0, "MPSMIN, MPSMAX, no CMB or PMR");
    assert_eq!(read32(&controller, VS), 0x0001_0400);
    assert_eq!(read32(&controller, CSTS), 0);
    // Eight bytes at once, or four and four: the same register.
    assert_eq!(controller.write(ASQ, &0x1_2345_6789_a123u64.to_le_bytes()), Effect::None);
    let _ = write32(&mut controller, ACQ, 0x8765_4fff);
    let _ = write32(&mut controller, ACQ + 4, 0x12);
    assert_eq!((read32(&controller, ASQ), read32(&controller, ASQ + 4)), (0x6789_a000, 0x1_2345));
    assert_eq!((read32(&controller, ACQ), read32(&controller, ACQ + 4)), (0x8765_4000, 0x12));
    // Pieces that are no registers change nothing.
    let _ = controller.write(AQA, &[1, 2]);
    let _ = controller.write(AQA + 2, &[1, 2, 3, 4]);
    let _ = controller.write(AQA, &[1; 12]);
    assert_eq!(read32(&controller, AQA), 0);
    let mut byte = [0];
    controller.read(VS + 1, &mut byte);
    assert_eq!(byte, [4]);
}

#[test]
fn a_bad_admin_queue_is_fatal_and_a_reset_clears_it() {
    let bad = [
        (0x0000_000f, 0, "completion queue of one entry"),
        (0x000f_0000, 0, "submission queue of one entry"),
        (0x000f_000f, 1 << 4, "command set"),
        (0x000f_000f, 1 << 7, "page size"),
        (0x000f_000f, 1 << 11, "arbitration"),
    ];
    for (aqa, cc, what) in bad {
        let mut controller = Controller::new(config(), 0).unwrap();
        let _ = write32(&mut controller, AQA, aqa);
        let _ = write32(&mut controller, CC, CC_ENTRY_SIZES | CC_ENABLE | cc);
        assert_eq!(read32(&controller, CSTS), CSTS_FATAL, "{what}");
        assert_eq!(write32(&mut controller, CC, 0), Effect::Reset);
        assert_eq!(read32(&controller, CSTS), 0, "{what}");
    }
}

#[test]
fn queues_in_memory_that_is_not_there_are_fatal() {
    let ram = Ram::new(RAM);
    for (asq, acq) in [(1 << 40, 0x2000u64), (0x1000u64, 1 << 40)] {
        let board = Board::new(config());
        let mut board = board.borrow_mut();
        let _ = write32(&mut board.controller, AQA, 0x000f_000f);
        let _ = board.controller.write(ASQ, &asq.to_le_bytes());
        let _ = board.controller.write(ACQ, &acq.to_le_bytes());
        let _ = write32(&mut board.controller, CC, CC_ENTRY_SIZES | CC_ENABLE);
        assert_eq!(read32(&board.controller, CSTS), CSTS_READY);
        assert_eq!(write32(&mut board.controller, 0x1000, 1), Effect::Poll);
        board.poll(&ram);
        assert_eq!(read32(&board.controller, CSTS), CSTS_READY | CSTS_FATAL);
    }
}

#[test]
fn the_admin_queue_cannot_move_while_enabled() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let before = driver.read32(ASQ).unwrap();
    driver.write32(ASQ, 0xdead_0000).unwrap();
    driver.write32(AQA, 0x0001_0001).unwrap();
    assert_eq!(driver.read32(ASQ).unwrap(), before);
    assert_eq!(driver.read32(AQA).unwrap(), 31 << 16 | 31);
}

#[test]
fn identify_shows_an_ebs_volume() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let page = driver.identify_controller().unwrap();
    assert_eq!((page.vid.get(), page.ssvid.get()), (0x1d0f, 0x1d0f));
    assert_eq!(&page.sn, b"vol0123456789abcdef0");
    assert_eq!(&page.mn, b"Amazon Elastic Block Store              ");
    assert_eq!(&page.fr, b"1.0     ");
    assert_eq!(&page.device_name, b"/dev/sdf                        ");
    assert_eq!(page.vendor3104, [0; 992]);
    assert_eq!(page.ver.get(), 0x0001_0400);
    assert_eq!((page.mdts, page.cntrltype, page.nn.get()), (6, 1, 1));
    assert_eq!((page.sqes, page.cqes), (0x66, 0x44));
    assert_eq!((page.oacs.get(), page.oncs.get(), page.sgls.get(), page.kas.get()), (0x100, 0x5c, 0, 0));
    assert_eq!((page.acl, page.aerl, page.elpe, page.lpa), (3, 3, 15, 7));
    assert_eq!(page.vwc, 7);
    assert!(page.subnqn.starts_with(b"nqn.2014.08.org.nvmexpress:1d0f1d0fvol0123456789abcdef0Amazon"));
    let namespace = driver.identify_namespace(1).unwrap();
    assert_eq!([namespace.nsze, namespace.ncap, namespace.nuse].map(|size| size.get()), [BLOCKS; 3]);
    assert_eq!((namespace.nlbaf, namespace.flbas, namespace.dlfeat), (0, 0, 0));
    assert_eq!(namespace.lbaf[0].get(), 9 << 16);
    assert_eq!((driver.blocks(), driver.block_size()), (BLOCKS, 512));
}

#[test]
fn no_write_cache_and_big_blocks_are_told() {
    let ram = Ram::new(RAM);
    let board = Board::new(Config { volatile_write_cache: false, block_size: 4096, blocks: 512, ..config() });
    let mut driver = start(&board, &ram, &options());
    assert_eq!(driver.identify_controller().unwrap().vwc, 6);
    assert_eq!(driver.identify_namespace(1).unwrap().lbaf[0].get(), 12 << 16);
    let data = pattern(1, 3 * 4096);
    driver.write(509, &data).unwrap();
    assert_eq!(board.borrow().disk.bytes[509 * 4096..512 * 4096], data);
    assert_eq!(board.borrow().disk.durable_writes, 1, "without a cache every write is durable");
}

#[test]
fn identify_lists_one_namespace_and_refuses_others() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let mut identify = |what: u8, nsid: u32| {
        let mut entry = nvme::driver::admin_entry(AdminOpcode::Identify);
        entry.nsid.set(nsid);
        entry.cdw10.set(what.into());
        let mut page = [0xee; 4096];
        match driver.admin_read(entry, &mut page) {
            Ok(_) => Ok(page),
            Err(Error::Status(status)) => Err(status),
            Err(other) => panic!("{other}"),
        }
    };
    let mut only_one = [0; 4096];
    only_one[0] = 1;
    assert_eq!(identify(cns::ACTIVE_NAMESPACES, 0), Ok(only_one));
    assert_eq!(identify(cns::ACTIVE_NAMESPACES, 1), Ok([0; 4096]));
    assert_eq!(identify(cns::NAMESPACE_DESCRIPTORS, 1), Ok([0; 4096]));
    let refused = [
        (cns::ACTIVE_NAMESPACES, 0xffff_fffe, Status::INVALID_NAMESPACE),
        (cns::NAMESPACE, 0, Status::INVALID_NAMESPACE),
        (cns::NAMESPACE, 2, Status::INVALID_NAMESPACE),
        (cns::NAMESPACE, 0xffff_ffff, Status::INVALID_NAMESPACE),
        (cns::NAMESPACE_DESCRIPTORS, 2, Status::INVALID_NAMESPACE),
        (4, 0, Status::INVALID_FIELD),
        (5, 1, Status::INVALID_FIELD),
        (6, 1, Status::INVALID_FIELD),
        (0x10, 0, Status::INVALID_FIELD),
        (0x11, 1, Status::INVALID_FIELD),
        (0x13, 0, Status::INVALID_FIELD),
        (0x15, 0, Status::INVALID_FIELD),
        (0xff, 0, Status::INVALID_FIELD),
    ];
    for (what, nsid, status) in refused {
        assert_eq!(identify(what, nsid).unwrap_err().code(), status.code(), "CNS {what:#x}, {nsid:#x}");
    }
}

#[test]
fn shutdown_finishes_io_and_flushes_before_it_is_complete() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    driver.submit(0, &transfer(nvme::Operation::Write, 7, 8, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    driver.write32(CC, CC_ENTRY_SIZES | CC_ENABLE | 1 << 14).unwrap();
    // A command after the notification is not taken.
    driver.submit(0, &transfer(nvme::Operation::Write, 99, 8, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY | CSTS_SHUTDOWN_OCCURRING);
    assert_eq!(board.borrow().disk.waiting.len(), 1, "no flush before the write has ended");
    board.borrow_mut().finish(&ram, 0);
    driver.bar().wait();
    assert_eq!(board.borrow().controller.state().shutdown, Shutdown::Occurring);
    assert_eq!(board.borrow().disk.flushes, 0);
    board.borrow_mut().finish(&ram, 0);
    assert_eq!(board.borrow().disk.flushes, 1);
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY | CSTS_SHUTDOWN_COMPLETE);
    assert_eq!(driver.reap(0).unwrap().unwrap().status, Status::SUCCESS);
    assert_eq!(driver.reap(0).unwrap(), None);
    // A reset brings it back.
    board.borrow_mut().pace = Pace::Oldest;
    let (port, memory) = driver.stop().unwrap();
    let mut driver = nvme::driver::Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    driver.write(0, &pattern(5, 512)).unwrap();
}

#[test]
fn a_failed_flush_is_no_orderly_shutdown() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver =
        start(&board, &ram, &Options { timeout: std::time::Duration::from_millis(50), ..options() });
    board.borrow_mut().disk.failures.push_back(Status::WRITE_FAULT);
    assert!(matches!(driver.shutdown(), Err(Error::Timeout(_))));
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY | CSTS_FATAL | CSTS_SHUTDOWN_OCCURRING);
}

#[test]
fn without_a_cache_shutdown_needs_no_flush_and_abrupt_is_as_good() {
    for notification in [1, 2] {
        let (ram, board) = (Ram::new(RAM), Board::new(Config { volatile_write_cache: false, ..config() }));
        let mut driver = start(&board, &ram, &options());
        driver.write32(CC, CC_ENTRY_SIZES | CC_ENABLE | notification << 14).unwrap();
        driver.bar().wait();
        assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY | CSTS_SHUTDOWN_COMPLETE);
        assert_eq!(board.borrow().disk.flushes, 0);
    }
}

#[test]
fn a_shutdown_before_enable_does_not_outlast_it() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    driver.write32(CC, 1 << 14).unwrap();
    driver.bar().wait();
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_SHUTDOWN_COMPLETE);
    driver.write32(CC, CC_ENTRY_SIZES | CC_ENABLE).unwrap();
    assert_eq!(driver.read32(CSTS).unwrap(), CSTS_READY);
    let (port, memory) = driver.into_parts();
    let mut driver = nvme::driver::Driver::start(port, memory, 0x1000..RAM as u64, &options()).unwrap();
    driver.flush().unwrap();
}

#[test]
fn a_removed_function_reads_as_ones_and_touches_nothing() {
    let (ram, board) = (Ram::new(RAM), Board::new(config()));
    let mut driver = start(&board, &ram, &options());
    let buffer = driver.allocate(4096).unwrap();
    board.borrow_mut().pace = Pace::Hold;
    driver.submit(0, &transfer(nvme::Operation::Read, 0, 8, buffer)).unwrap();
    driver.ring(0).unwrap();
    driver.bar().wait();
    board.borrow_mut().controller.surprise_remove();
    assert_eq!(driver.read32(CSTS).unwrap(), u32::MAX);
    assert_eq!(board.borrow().controller.state().in_flight, 1);
    let mut before = vec![0; RAM];
    ram.read(0, &mut before).unwrap();
    let tag = board.borrow_mut().disk.waiting.pop_front().unwrap().tag();
    board.borrow_mut().controller.complete(&&ram, tag, Status::SUCCESS, 0);
    driver.submit(0, &transfer(nvme::Operation::Read, 0, 8, buffer)).unwrap();
    ram.read(0, &mut before).unwrap();
    driver.ring(0).unwrap();
    assert_eq!(board.borrow_mut().poll(&ram), 0);
    let mut after = vec![0; RAM];
    ram.read(0, &mut after).unwrap();
    assert!(before == after);
    let state = board.borrow().controller.state();
    assert!(state.removed && !state.enabled && state.in_flight == 0);
    board.borrow_mut().controller.reset();
    assert_eq!(driver.read32(CSTS).unwrap(), u32::MAX, "a reset does not bring it back");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let refused = [
        (Config { serial: String::new(), ..config() }, ConfigError::Serial),
        (Config { serial: "v".repeat(21), ..config() }, ConfigError::Serial),
        (Config { device_name: "/dev/sdf\n".into(), ..config() }, ConfigError::DeviceName),
        (Config { device_name: "x".repeat(33), ..config() }, ConfigError::DeviceName),
        (Config { blocks: 0, ..config() }, ConfigError::Size),
        (Config { blocks: 1 << 54, ..config() }, ConfigError::Size),
        (Config { block_size: 1024, ..config() }, ConfigError::Size),
        (Config { io_queues: 0, ..config() }, ConfigError::Queues),
        (Config { io_queues: 64, ..config() }, ConfigError::Queues),
        (Config { max_in_flight: 0, ..config() }, ConfigError::Queues),
    ];
    for (config, error) in refused {
        assert_eq!(Controller::new(config, 0).err(), Some(error));
    }
}
