use super::*;
use proptest::prelude::*;
use std::{collections::HashSet, vec, vec::Vec};

/// A flash of one byte per region; an image's digest is its byte, repeated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Model {
    /// What the flash holds.
    code: u8,
    /// What the board reads.
    served: u8,
    variables: u8,
    /// What becomes of the next write.
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// It stops half-way and says so.
    Error,
    /// It stops half-way and does not.
    Silent,
}

const TORN: u8 = 3;
const fn digest_of(byte: u8) -> Digest {
    [byte; 32]
}

impl Flash for Model {
    type Error = ();
    fn code_length(&self) -> u64 {
        1
    }
    fn measure(&mut self) -> Result<Digest, ()> {
        Ok(digest_of(self.code))
    }
    fn reload(&mut self) -> Result<Digest, ()> {
        self.served = self.code;
        self.measure()
    }
    fn digest(&self, bytes: &[u8]) -> Digest {
        digest_of(bytes[0])
    }
    fn program(&mut self, image: &[u8]) -> Result<(), ()> {
        self.code = if self.fault.is_some() { TORN } else { image[0] };
        if self.fault.take() == Some(Fault::Error) { Err(()) } else { Ok(()) }
    }
    fn holds(&self, region: Region, _: u64, data: &[u8]) -> bool {
        data == [if region == Region::Code { self.served } else { self.variables }]
    }
    fn overlay(&mut self, _: u64, data: &[u8]) -> Result<(), ()> {
        self.variables = data[0];
        Ok(())
    }
    fn drop_overlay(&mut self) {
        self.variables = 0;
    }
}

/// Everything that anyone can do, in a world of three images.
#[derive(Debug, Clone, Copy)]
enum Input {
    Release(u8),
    Hold,
    /// QEMU ends, or the guest has reset itself and a new one starts.
    BoardStops,
    Measure,
    Update {
        authorised: u8,
        image: u8,
        length: usize,
    },
    WriteCode(u8),
    WriteVariables(u8),
    /// Someone changes the flash behind the chip's back.
    Tamper(u8),
    /// The next update will be torn.
    Fail(Fault),
    PowerCycle,
}

fn inputs() -> Vec<Input> {
    let mut all = vec![Input::Hold, Input::BoardStops, Input::Measure, Input::PowerCycle];
    for a in 0..3 {
        all.extend([Input::Release(a), Input::Tamper(a), Input::WriteCode(a), Input::WriteVariables(a)]);
        for (image, length) in [(0, 1), (1, 1), (2, 1), (a, 0), (a, 2)] {
            all.push(Input::Update { authorised: a, image, length });
        }
    }
    all.extend([Input::Release(TORN), Input::Fail(Fault::Error), Input::Fail(Fault::Silent)]);
    all
}

/// One step, and every promise about it.
fn step(chip: &mut Chip<Model>, input: Input) {
    let (before, reset) = (chip.flash.clone(), chip.reset);
    let refused = chip.record.refused_writes();
    match input {
        Input::Release(named) => {
            let released = chip.release(digest_of(named)).is_ok();
            let runs = if reset == Reset::Held { digest_of(before.code) } else { digest_of(before.served) };
            assert_eq!(released, digest_of(named) == runs, "released only what is there");
        }
        Input::Hold => chip.hold(),
        Input::BoardStops => {
            chip.board_stopped();
            assert_eq!(chip.flash.variables, 0, "a start begins with the flash's own variables");
        }
        Input::Measure => assert_eq!(chip.measure(), Ok(digest_of(before.code))),
        Input::Update { authorised, image, length } => {
            let done = chip.update(digest_of(authorised), &vec![image; length]).is_ok();
            let allowed = reset == Reset::Held && authorised == image && length == 1;
            assert_eq!(done, allowed && before.fault.is_none());
            let expected = match (allowed, before.fault.is_some()) {
                (false, _) => before.code,
                (true, false) => image,
                (true, true) => TORN,
            };
            assert_eq!(chip.flash.code, expected, "only authorised bytes reach the flash");
        }
        Input::WriteCode(byte) => {
            assert_eq!(chip.board_write(Region::Code, 0, &[byte]), Err(Refusal::Write));
            assert_eq!(chip.flash, before);
            assert_eq!(chip.record.refused_writes(), refused + 1);
        }
        Input::WriteVariables(byte) => {
            assert_eq!(chip.board_write(Region::Variables, 0, &[byte]).is_ok(), reset != Reset::Held);
        }
        Input::Tamper(byte) => chip.flash.code = byte,
        Input::Fail(fault) => chip.flash.fault = Some(fault),
        Input::PowerCycle => {
            let code = chip.flash.code;
            *chip = Chip::new(Model { code, served: code, variables: 0, fault: None });
        }
    }
    // Only these change the code in the flash, and only these let reset go or take it.
    if !matches!(input, Input::Update { .. } | Input::Tamper(_)) {
        assert_eq!(chip.flash.code, before.code, "{input:?}");
    }
    if !matches!(input, Input::Release(_) | Input::Hold | Input::PowerCycle) {
        assert_eq!(chip.reset, reset, "{input:?}");
    }
    match chip.reset {
        Reset::Released(digest) => {
            assert_eq!(digest, digest_of(chip.flash.served), "the board reads what was verified");
        }
        Reset::Held => assert_eq!(chip.flash.variables, 0, "a hold drops what the board wrote"),
    }
}

fn power_on() -> Chip<Model> {
    Chip::new(Model { code: 0, served: 0, variables: 0, fault: None })
}

/// Not sampled: every state that any sequence of inputs can reach, and every input in each.
#[test]
fn every_interleaving_keeps_the_promises() {
    let key = |chip: &Chip<Model>| (chip.flash.clone(), matches!(chip.reset, Reset::Released(_)));
    let mut open = vec![power_on()];
    let mut seen = HashSet::from([key(&open[0])]);
    while let Some(chip) = open.pop() {
        for input in inputs() {
            let mut next = chip.clone();
            step(&mut next, input);
            if seen.insert(key(&next)) {
                open.push(next);
            }
        }
    }
    // Not vacuous: it went through a flash that was changed behind a running board.
    assert!(seen.iter().any(|(model, released)| *released && model.code != model.served));
}

#[test]
fn attempts_in_a_row_are_one_event_until_it_is_read() {
    let mut chip = power_on();
    chip.release(digest_of(0)).unwrap();
    for offset in [100, 0, 7] {
        chip.board_write(Region::Code, offset, b"xy").unwrap_err();
    }
    let event = Event::WriteRefused { region: Region::Code, offset: 100, bytes: 6, attempts: 3, changing: 3 };
    let entries: Vec<_> = chip.record().after(1).collect();
    assert_eq!(entries, [Entry { seq: 2, event }]);
    chip.board_write(Region::Code, 9, b"z").unwrap_err();
    let event = Event::WriteRefused { region: Region::Code, offset: 9, bytes: 1, attempts: 1, changing: 1 };
    assert_eq!(chip.record().after(2).collect::<Vec<_>>(), [Entry { seq: 3, event }]);
    assert_eq!(chip.record().refused_writes(), 4);
}

proptest! {
    #[test]
    fn the_record_is_bounded_ordered_and_loses_no_attempt(
        steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..700, any::<bool>()), 0..700),
    ) {
        let all = inputs();
        let mut chip = power_on();
        let (mut attempts, mut last) = (0, 0);
        for (index, after, read) in steps {
            let input = all[index.index(all.len())];
            if matches!(input, Input::PowerCycle) {
                continue;
            }
            step(&mut chip, input);
            if read {
                for entry in chip.record().after(last).collect::<Vec<_>>() {
                    prop_assert_eq!(entry.seq, last + 1);
                    last = entry.seq;
                    if let Event::WriteRefused { attempts: more, .. } = entry.event {
                        attempts += more;
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
}
