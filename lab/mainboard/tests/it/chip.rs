//! The firmware's own shell is the guest: there is no disk.

use crate::rack::{PROMPT, Rack, lives, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use wire::board::{Power, Reply as BoardReply, Request as BoardRequest};

#[test]
fn the_chip_decides_when_processors_run_and_keeps_the_firmware() {
    let mut rack = Rack::power();
    let before = rack.code();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Held, 0));
    rack.release();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Running, 1));
    rack.until_shell();

    // The flash ends where 4 GiB end. Reading the record sets the firmware's own attempts apart.
    let start = (1_u64 << 32) - fs::metadata(rack.dir.path().join("code")).unwrap().len();
    let byte = 0xFFF0_0000 - start;
    assert!(!rack.refused(byte));
    // Programs one byte of the firmware, as the flash's command set has it.
    rack.type_line("mm FFF00000 40 -w 1 -MEM -n");
    rack.until(PROMPT);
    rack.type_line("mm FFF00000 00 -w 1 -MEM -n");
    rack.until(PROMPT);
    wait("the refusal on record", || rack.refused(byte).then_some(()));
    assert_eq!(rack.code(), before);

    // The guest's own reset is a fresh machine that reads the chip's bytes.
    let first = rack.qemu();
    rack.type_line("reset");
    rack.until_shell();
    assert_eq!((rack.status().boots, lives(first), rack.qemu() == first), (2, false, false));
    rack.type_line("reset -s");
    rack.wait_for(Power::Off);
    rack.hold();
    assert_eq!(rack.status().power, Power::Held);
    rack.release();
    rack.until("BdsDxe");
    rack.hold();
    assert_eq!((rack.status().power, rack.status().boots), (Power::Held, 3));
}

#[test]
fn a_cut_reset_line_holds_and_no_machine_outlives_its_board() {
    let mut rack = Rack::power();
    rack.release();
    let running = rack.qemu();
    rack.chip.kill().unwrap();
    rack.wait_for(Power::Held);
    assert!(!lives(running));
    let fault = BoardRequest::Plug { slot: 3.try_into().unwrap(), socket: "relative".into() };
    assert!(
        matches!(rack.to_board.call(&fault, &[]), Ok(BoardReply::Fault(f)) if f.code == "board.bmc-held")
    );

    // The chip is gone, so no machine waits; SIGTERM ends the board in order.
    kill_process(Pid::from_child(&rack.board), Signal::TERM).unwrap();
    assert!(rack.board.wait().unwrap().success());
    for socket in ["bmc", "console", "bmc.qmp", "bmc.buses"] {
        assert!(!rack.dir.path().join(socket).exists(), "{socket}");
    }

    let mut rack = Rack::power();
    rack.release();
    let qemu = rack.qemu();
    assert!(lives(qemu));
    rack.board.kill().unwrap();
    rack.board.wait().unwrap();
    wait("QEMU ends with its board", || (!lives(qemu)).then_some(()));
}
