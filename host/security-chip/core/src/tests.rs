#![allow(clippy::cast_possible_truncation, reason = "test code: patterns")]

use super::*;
use proptest::prelude::*;
use spi::PAGE;
use std::{vec, vec::Vec};

mod reference;

use reference::Reference;

/// The flashes of a board: what is served is what is held.
#[derive(Debug, Clone)]
struct Memory {
    code: [Vec<u8>; 2],
    original: Vec<u8>,
    variables: Vec<u8>,
}

/// Stands for a hash: different for all images here.
fn digest_of(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    for (at, byte) in bytes.iter().enumerate() {
        digest[at % 32] ^= byte.rotate_left((at / 32 % 8) as u32);
    }
    digest
}

impl Flash for Memory {
    type Error = ();
    fn served(&self, region: Region) -> &[u8] {
        match region {
            Region::Code(of) => &self.code[of as usize],
            Region::Variables => &self.variables,
        }
    }
    fn measure(&mut self, of: Master) -> Result<Digest, ()> {
        Ok(digest_of(&self.code[of as usize]))
    }
    fn reload(&mut self, of: Master) -> Result<Digest, ()> {
        self.measure(of)
    }
    fn digest(&self, bytes: &[u8]) -> Digest {
        digest_of(bytes)
    }
    fn program(&mut self, of: Master, image: &[u8]) -> Result<(), ()> {
        self.code[of as usize] = image.to_vec();
        Ok(())
    }
    fn overlay(&mut self, offset: u64, data: &[u8]) {
        self.variables[offset as usize..][..data.len()].copy_from_slice(data);
    }
    fn drop_overlay(&mut self) {
        self.variables.clone_from(&self.original);
    }
    fn identity(&self) -> &[u8] {
        b"board"
    }
}

/// Neither part begins or ends with a block of the larger kinds.
const VARIABLES: usize = 0x2_2200;
const CODE: usize = 0x1_d400;
const BMC: usize = 0x800;

fn board() -> Chip<Memory> {
    let pattern =
        |length: usize, seed: usize| (0..length).map(|at| (at / 3 * seed) as u8).collect::<Vec<_>>();
    let variables = pattern(VARIABLES, 7);
    Chip::new(Memory { code: [pattern(CODE, 5), pattern(BMC, 11)], original: variables.clone(), variables })
}

fn verified(chip: &mut Chip<Memory>) -> [Digest; 2] {
    Master::ALL.map(|master| chip.measure(master).unwrap())
}

fn running() -> Chip<Memory> {
    let mut chip = board();
    let firmware = verified(&mut chip);
    for line in Line::ALL {
        chip.release(line, &firmware).unwrap();
    }
    chip
}

fn spi(chip: &mut Chip<Memory>, master: Master, select: u8, out: &[u8], read: usize) -> Vec<u8> {
    let mut into = vec![0; read];
    chip.spi(master, select, out, &mut into);
    into
}

fn events(chip: &mut Chip<Memory>, after: u64) -> Vec<Event> {
    chip.record().after(after).map(|entry| entry.event).collect()
}

#[test]
fn lines_go_in_order_and_only_for_what_all_firmware_is() {
    let mut chip = board();
    let firmware @ [code, bmc] = verified(&mut chip);
    for wrong in [[code, code], [bmc, bmc], [code, [0; 32]]] {
        for line in Line::ALL {
            assert_eq!(chip.release(line, &wrong), Err(Refusal::Unverified));
        }
    }
    assert_eq!(chip.release(Line::Cpu, &firmware), Err(Refusal::Order));
    for line in Line::ALL {
        assert!(chip.holds(line));
        chip.release(line, &firmware).unwrap();
        chip.release(line, &firmware).unwrap();
    }
    chip.hold(Line::Bmc);
    assert!(chip.holds(Line::Bmc) && !chip.holds(Line::Cpu), "apart");
    chip.hold(Line::Board);
    let told = events(&mut chip, 0);
    let taken = [Line::Bmc, Line::Cpu, Line::Board].map(Event::Held);
    assert_eq!(told, [&Line::ALL.map(Event::Released)[..], &taken].concat());
}

#[test]
fn firmware_is_replaced_under_a_held_processor_only_and_is_then_to_be_verified_anew() {
    let mut chip = running();
    let firmware = verified(&mut chip);
    let image = vec![1; BMC];
    let authorised = digest_of(&image);
    assert_eq!(chip.update(Master::Bmc, &authorised, &image), Err(Refusal::NotHeld));
    chip.hold(Line::Bmc);
    assert_eq!(chip.update(Master::Bmc, &firmware[1], &image), Err(Refusal::Hash));
    assert_eq!(chip.update(Master::Bmc, &authorised, &image[1..]), Err(Refusal::Length));
    chip.update(Master::Bmc, &authorised, &image).unwrap();
    assert_eq!(chip.release(Line::Bmc, &firmware), Err(Refusal::Unverified));
    chip.release(Line::Bmc, &[firmware[0], authorised]).unwrap();
    assert_eq!(chip.running(Master::Bmc), Some(authorised));
}

#[test]
fn each_master_has_its_own_flash_and_no_other() {
    let mut chip = running();
    let before = events(&mut chip, 0).len() as u64;
    assert_eq!(spi(&mut chip, Master::Cpu, 0, &[0x9f], 4), [0xef, 0x40, 18, 0xff]);
    assert_eq!(spi(&mut chip, Master::Bmc, 1, &[0x9f], 3), [0xef, 0x40, 11]);
    assert_eq!(spi(&mut chip, Master::Bmc, 1, &[0x03, 0, 0, 9], 3), [33, 33, 33]);
    assert_eq!(spi(&mut chip, Master::Cpu, 7, &[0x9f], 3), [0xff; 3]);
    assert_eq!(events(&mut chip, before), [], "nobody complains of what is allowed");
    assert_eq!(spi(&mut chip, Master::Cpu, 1, &[0x03, 0, 0, 9], 3), [0xff; 3]);
    assert_eq!(spi(&mut chip, Master::Bmc, 0, &[0x03, 0, 0, 9], 2), [0xff; 2]);
    let (cpu, bmc) = (Region::Code(Master::Cpu), Region::Code(Master::Bmc));
    let read = |master, region, bytes| {
        let target = Target::Flash(region);
        Event::ReadRefused(Attempts { master, target, offset: 0, bytes, attempts: 1, changing: 0 })
    };
    assert_eq!(events(&mut chip, before), [read(Master::Cpu, bmc, 3), read(Master::Bmc, cpu, 2)]);
    // Write enable of the other's flash is no command of one's own.
    spi(&mut chip, Master::Cpu, 0, &[0x06], 0);
    spi(&mut chip, Master::Bmc, 0, &[0x02, 0, 0, 0, 0], 0);
    spi(&mut chip, Master::Bmc, 1, &[0x02, 0, 0, 0, 0], 0);
    let target = Target::Flash(Region::Variables);
    let write = Attempts { master: Master::Bmc, target, offset: 0, bytes: 1, attempts: 1, changing: 0 };
    assert_eq!(events(&mut chip, before + 2), [Event::WriteRefused(write)]);
    assert_eq!(spi(&mut chip, Master::Cpu, 0, &[0x05], 1), [2]);
}

#[test]
fn whatever_an_unknown_command_does_is_refused_after_write_enable() {
    for opcode in 0..=255 {
        let mut chip = running();
        let before = events(&mut chip, 0).len() as u64;
        spi(&mut chip, Master::Cpu, 0, &[opcode, 0, 0, 0, 0, 0], 4);
        assert_eq!(events(&mut chip, before), [], "{opcode:#x} without write enable");
        spi(&mut chip, Master::Cpu, 0, &[0x04], 0);
        spi(&mut chip, Master::Cpu, 0, &[0x06], 0);
        let out = [opcode, 0, 0, 0, 0, 0];
        let known = spi::Port { enabled: true, four_bytes: false }.parse(&out) != spi::Command::Other;
        spi(&mut chip, Master::Cpu, 0, &out, 4);
        let told = events(&mut chip, before);
        let refused = told.iter().any(
            |event| matches!(event, Event::WriteRefused(a) if a.target == Target::Registers && a.changing == 1),
        );
        // Chip erase reaches code; the others of address 0 reach variables.
        let whole = [0x60, 0xc7].contains(&opcode);
        assert_eq!((refused, told.len()), (!known, usize::from(!known || whole)), "{opcode:#x}");
        assert_eq!(chip.flash().code, running().flash().code);
    }
}

#[test]
fn parameters_say_what_the_flash_is() {
    let mut chip = running();
    let table = spi(&mut chip, Master::Cpu, 0, &[0x5a, 0, 0, 0, 0], 52);
    assert_eq!((&table[..4], table[11]), (&b"SFDP"[..], 9));
    let pointer = u32::from_le_bytes(table[12..16].try_into().unwrap()) & 0xff_ffff;
    let word = |at: usize| {
        let at = pointer as usize + 4 * at;
        u32::from_le_bytes(table[at..at + 4].try_into().unwrap())
    };
    assert_eq!(u64::from(word(1)) + 1, (VARIABLES + CODE) as u64 * 8);
    let erases = [word(7) as u16, (word(7) >> 16) as u16, word(8) as u16, (word(8) >> 16) as u16];
    assert_eq!(erases, [0x200c, 0x520f, 0xd810, 0]);
    assert_eq!(spi(&mut chip, Master::Cpu, 0, &[0x90, 0, 0, 0], 3), [0xef, 17, 0xef]);
    assert_eq!(spi(&mut chip, Master::Cpu, 0, &[0xab, 0, 0, 0], 1), [17]);
}

#[test]
fn small_devices_are_read_by_both_and_written_by_none() {
    let mut chip = board();
    let mut into = [0; 6];
    for master in Master::ALL {
        assert!(chip.i2c(master, address::IDENTITY, &[0], &mut into));
        assert_eq!(&into, b"board\xff");
        assert!(chip.i2c(master, address::RESET, &[0], &mut into[..3]));
        assert_eq!(into[..3], [b'A', 1, 7]);
        assert!(!chip.i2c(master, 0x51, &[0], &mut into));
    }
    let firmware = verified(&mut chip);
    chip.release(Line::Bmc, &firmware).unwrap();
    // The pointer of one master is not the other's, and goes on.
    assert!(chip.i2c(Master::Cpu, address::RESET, &[1], &mut []));
    assert!(chip.i2c(Master::Bmc, address::RESET, &[0], &mut []));
    assert!(chip.i2c(Master::Cpu, address::RESET, &[], &mut into[..2]));
    assert_eq!(into[..2], [1, 5]);
    let before = events(&mut chip, 0).len() as u64;
    assert!(!chip.i2c(Master::Bmc, address::RESET, &[2, 0], &mut into));
    assert!(!chip.i2c(Master::Cpu, address::IDENTITY, &[0, 1, 2], &mut into));
    let told = events(&mut chip, before);
    let write = |master, target, offset, bytes| {
        Event::WriteRefused(Attempts { master, target, offset, bytes, attempts: 1, changing: 1 })
    };
    assert_eq!(
        told,
        [write(Master::Bmc, Target::ResetController, 2, 1), write(Master::Cpu, Target::Identity, 0, 2)]
    );
    assert!(chip.holds(Line::Cpu));
}

#[test]
fn memory_mapped_writes_reach_variables_while_the_processors_run() {
    let mut chip = board();
    let refused = chip.map_write(Region::Variables, 5, b"xy");
    assert_eq!(refused, Err(Refusal::Write));
    let mut chip = running();
    chip.map_write(Region::Variables, 5, b"xy").unwrap();
    assert_eq!(&chip.flash().variables[5..7], b"xy");
    let end = VARIABLES as u64;
    for (region, offset) in [
        (Region::Variables, end - 1),
        (Region::Variables, u64::MAX),
        (Region::Code(Master::Cpu), 0),
        (Region::Code(Master::Cpu), u64::MAX - 1),
        (Region::Code(Master::Bmc), 0),
    ] {
        assert_eq!(chip.map_write(region, offset, b"xy"), Err(Refusal::Write), "{region:?} {offset}");
    }
    chip.restarted(Master::Cpu);
    assert_eq!(chip.flash().variables, chip.flash().original);
}

#[test]
fn attempts_in_a_row_are_one_event_until_it_is_read() {
    let mut chip = running();
    let before = events(&mut chip, 0).len() as u64;
    let code = Region::Code(Master::Cpu);
    for offset in [100, 0, 7] {
        chip.map_write(code, offset, b"\xee\xdd").unwrap_err();
    }
    let (master, target) = (Master::Cpu, Target::Flash(code));
    let three = Attempts { master, target, offset: 100, bytes: 6, attempts: 3, changing: 3 };
    assert_eq!(events(&mut chip, before), [Event::WriteRefused(three)]);
    chip.map_write(code, 9, b"z").unwrap_err();
    let one = Attempts { master, target, offset: 9, bytes: 1, attempts: 1, changing: 1 };
    assert_eq!(events(&mut chip, before + 1), [Event::WriteRefused(one)]);
    assert_eq!(chip.record().refused_writes(), 4);
}

proptest! {
    #[test]
    fn the_record_is_bounded_ordered_and_loses_no_attempt(
        steps in proptest::collection::vec((0..6u8, 0u64..700, any::<bool>()), 0..700),
    ) {
        let mut chip = running();
        let firmware = verified(&mut chip);
        let (mut attempts, mut last) = (0, 0);
        for (kind, after, read) in steps {
            match kind {
                0 => chip.hold(Line::Cpu),
                1 => chip.release(Line::Cpu, &firmware).unwrap(),
                2 => drop(chip.update(Master::Bmc, &[0; 32], &[])),
                3 => spi(&mut chip, Master::Bmc, 0, &[0x03, 0, 0, 0], 1).clear(),
                _ => prop_assert!(chip.map_write(Region::Code(Master::Cpu), after, b"x").is_err()),
            }
            if read {
                for entry in chip.record().after(last).collect::<Vec<_>>() {
                    prop_assert_eq!(entry.seq, last + 1);
                    last = entry.seq;
                    if let Event::WriteRefused(refused) = entry.event {
                        attempts += refused.attempts;
                    }
                }
                prop_assert_eq!(attempts, chip.record().refused_writes());
            }
            let entries: Vec<_> = chip.record.clone().after(after).collect();
            prop_assert!(entries.len() <= RECORD);
            prop_assert!(entries.iter().all(|entry| entry.seq > after));
            prop_assert!(entries.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
            if chip.record.dropped() > last {
                break;
            }
        }
    }

    /// Against a flash whose bytes beyond the variables are protected.
    #[test]
    fn the_processors_flash_is_one_as_the_data_sheets_have_it(
        transactions in proptest::collection::vec(reference::transaction(VARIABLES + CODE), 1..40),
    ) {
        let mut chip = running();
        let content = |chip: &Chip<Memory>| [&chip.flash().variables[..], &chip.flash().code[0]].concat();
        let mut reference = Reference::new(content(&chip), VARIABLES);
        for (out, read) in transactions {
            let refused = chip.record().refused_writes();
            let seen = spi(&mut chip, Master::Cpu, 0, &out, read);
            let (wanted, blocked) = reference.transact(&out, read);
            prop_assert_eq!(seen, wanted, "{:x?}", out);
            prop_assert_eq!(chip.record().refused_writes() - refused, u64::from(blocked), "{:x?}", out);
            prop_assert!(content(&chip) == reference.bytes, "{:x?}", out);
        }
        prop_assert!(chip.flash().code == running().flash().code);
        prop_assert_eq!(PAGE, 256);
    }

    #[test]
    fn nothing_on_the_buses_changes_firmware_or_lines(
        accesses in proptest::collection::vec(
            (any::<bool>(), 0..3u8, proptest::collection::vec(any::<u8>(), 0..300), 0..9usize, any::<bool>()),
            0..60,
        ),
    ) {
        let mut chip = running();
        for (bmc, device, out, read, i2c) in accesses {
            let master = Master::ALL[usize::from(bmc)];
            if i2c {
                let address = [address::IDENTITY, address::RESET, 0][usize::from(device)];
                chip.i2c(master, address, &out, &mut vec![0; read]);
            } else {
                spi(&mut chip, master, device, &out, read);
            }
        }
        prop_assert!(chip.flash().code == running().flash().code);
        prop_assert!(Line::ALL.into_iter().all(|line| !chip.holds(line)));
        chip.hold(Line::Cpu);
        prop_assert!(chip.flash().variables == chip.flash().original);
    }
}
