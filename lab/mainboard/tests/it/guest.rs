//! Debian's kernel on encrypted volumes: booted from one, with a second that comes and goes.

use crate::{
    card::{Card, write},
    rack::Rack,
};
use ids::VolumeId;
use image::{PROMPT, READY};
use parts::Parts;
use std::{fs, time::Instant};
use wire::{
    board::{Power, Reply, Request},
    chip::{Event, EventKind, Line, Master, Target},
};

/// A rack that boots Debian's kernel when reset is released, from this volume.
fn rack_with(root: &VolumeId) -> (Rack, Card, tempfile::TempDir) {
    let rack = Rack::power();
    let dir = tempfile::tempdir().unwrap();
    let card = Card::start(dir.path());
    let lab = parts::default_dir();
    let parts = Parts::locate(&lab).unwrap();
    let image = fs::read(image::build(&parts, &lab, &mut |at| println!("{at}")).unwrap()).unwrap();
    let socket = card.attach(root, image.len() as u64);
    write(&socket, &image);
    rack.release_line(Line::Bmc);
    rack.plug(1, &socket);
    (rack, card, dir)
}

#[test]
fn a_guest_with_root_changes_nothing_over_spi_and_i2c() {
    let (mut rack, _card, _dir) = rack_with(&VolumeId::from_random(1));
    rack.release();
    rack.until(READY);
    rack.until(PROMPT);
    let before = rack.code();
    let first = rack.events().last().unwrap().seq;
    // Inside the code, which comes after the variables.
    rack.type_line("flash attack 100000; echo attacked:$?");
    for told in ["flash: EF 40 16", "flash: 02", "flash: nothing has changed", "attacked:0"] {
        rack.until(told);
    }
    let targets = |rack: &Rack, after: u64| {
        let refused = |event: Event| match event.what {
            EventKind::WriteRefused(it) if event.seq > after => Some((it.master, it.target, it.changing > 0)),
            _ => None,
        };
        rack.events().into_iter().filter_map(refused).collect::<Vec<_>>()
    };
    let (code, registers) = ((Master::Cpu, Target::Code, true), (Master::Cpu, Target::Registers, true));
    assert_eq!(targets(&rack, first), [code, registers, code]);

    // No controller, and then the next one.
    let last = rack.events().last().unwrap().seq;
    rack.lose_controller();
    rack.type_line("flash i2c 50 5 07; flash i2c 20 0 02 00; flash spi 1 1 03 00 00 00; echo done:$?");
    rack.until("flash: FE 01 ");
    rack.until("flash: no acknowledgement");
    rack.until("flash: FF");
    rack.type_line("flash attack 100000; echo attacked:$?");
    rack.until("attacked:0");
    rack.find_controller();
    assert_eq!(targets(&rack, last), [(Master::Cpu, Target::ResetController, true), code, registers, code]);
    let foreign =
        |event: &Event| matches!(event.what, EventKind::ReadRefused(it) if it.target == Target::Bmc);
    assert!(rack.events().iter().any(foreign), "the BMC's flash is not the processors'");
    assert_eq!((rack.code(), rack.status().power), (before, Power::Running));
}

#[test]
fn linux_boots_from_an_encrypted_volume_and_a_second_one_comes_and_goes() {
    let [root, data] = [1, 2].map(VolumeId::from_random);
    let (mut rack, card, dir) = rack_with(&root);

    rack.release();
    let began = Instant::now();
    rack.until("BdsDxe: starting");
    let firmware = began.elapsed();
    rack.until(&format!("nvme0 Amazon Elastic Block Store {}", root.serial()));
    rack.until(READY);
    println!("firmware {:.1} s, guest ready {:.1} s", firmware.as_secs_f32(), began.elapsed().as_secs_f32());
    rack.until(PROMPT);

    let began = Instant::now();
    rack.plug(2, &card.attach(&data, 8 << 20));
    rack.type_line("until [ -b /dev/nvme1n1 ]; do sleep 0.1; done; echo seen:$?");
    rack.until("seen:0");
    println!("hot-plugged after {:.1} s", began.elapsed().as_secs_f32());
    rack.type_line("echo a-known-text | dd of=/dev/nvme1n1 conv=fsync; echo written:$?");
    rack.until("written:0");
    let bytes = fs::read(dir.path().join(format!("{data}.img"))).unwrap();
    assert!(bytes.iter().any(|byte| *byte != 0));
    assert!(!bytes.windows(12).any(|piece| piece == b"a-known-text"));
    rack.type_line("dd if=/dev/nvme1n1 iflag=direct bs=4096 count=1 2>/dev/null | head -n 1; echo read:$?");
    rack.until("a-known-text\r\nread:0");

    rack.type_line(
        "echo 1 >$(readlink -f /sys/class/nvme/nvme1)/../../remove; ls /dev/nvme1; echo removed:$?",
    );
    rack.until("removed:1");
    card.detach(&data, false);
    rack.bmc(&Request::Unplug { slot: 2.try_into().unwrap() });
    rack.type_line("echo still $((6 * 7))");
    rack.until("still 42");

    let reply = rack.bmc_raw(&Request::Plug { slot: 2.try_into().unwrap(), socket: "/gone".into() });
    assert!(matches!(reply, Reply::Fault(fault) if fault.code == "slot.spent"));
    rack.bmc(&Request::PowerButton);
    rack.wait_for(Power::Off);
}
