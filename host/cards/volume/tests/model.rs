//! Random I/O against a model: many commands at once, queue wrap, resets, reconnects, detach and attach.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::{
    Memory, Operation,
    driver::{Command, Options},
};
use proptest::prelude::*;
use rig::{Card, Disk, GUEST, Guest, boot, drive, function_level_reset};
use std::{path::Path, time::Duration};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-volume-card");
const SIZE: usize = 4 << 20;
const BLOCKS: u64 = SIZE as u64 / 512;
/// Room of one command in guest memory.
const ROOM: u64 = 256 << 10;

#[derive(Debug, Clone)]
enum Step {
    /// Commands on different blocks, all in flight together.
    Batch(Vec<Io>),
    /// The driver resets the controller.
    Controller,
    /// The hypervisor resets the function, or the driver does by configuration space.
    Function { by_driver: bool },
    /// The hypervisor comes back as another one.
    Reconnect,
    /// The volume goes and comes back, with a new card if so wanted.
    Reattach { new_card: bool },
}

#[derive(Debug, Clone)]
struct Io {
    kind: u8,
    /// In 64ths of the volume; a batch uses each only once.
    place: u64,
    start: u64,
    blocks: u64,
    offset: u64,
    fill: u8,
    durable: bool,
}

fn io() -> impl Strategy<Value = Io> {
    let numbers = (0..8_u8, 0..64_u64, 0..128_u64, 1..=128_u64, 0..1024_u64, any::<u8>(), any::<bool>());
    numbers.prop_map(|(kind, place, start, blocks, offset, fill, durable)| {
        let blocks = blocks.min(128 - start);
        // Most buffers are aligned to sectors, some only to dwords.
        let offset = if offset % 4 == 0 { offset * 4 } else { offset * 512 % 4096 };
        Io { kind, place, start, blocks, offset, fill, durable }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(io(), 1..40).prop_map(Step::Batch),
        1 => Just(Step::Controller),
        1 => any::<bool>().prop_map(|by_driver| Step::Function { by_driver }),
        1 => Just(Step::Reconnect),
        1 => any::<bool>().prop_map(|new_card| Step::Reattach { new_card }),
    ]
}

struct World {
    card: Card,
    disk: Disk,
    guest: Option<Guest>,
    model: Vec<u8>,
    options: Options,
}

impl World {
    fn guest(&mut self) -> &mut Guest {
        self.guest.as_mut().unwrap()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Batch(mut batch) => {
                let mut used = 0_u64;
                batch.retain(|io| {
                    let before = used;
                    used |= 1 << io.place;
                    before != used
                });
                self.batch(&batch);
            }
            Step::Controller => {
                let (function, ram) = self.guest.take().unwrap().into_parts();
                self.guest = Some(drive(function, ram, &self.options));
            }
            Step::Function { by_driver } => {
                let (mut function, ram) = self.guest.take().unwrap().into_parts();
                if by_driver {
                    function_level_reset(&mut function).unwrap();
                } else {
                    function.0.reset().unwrap();
                    function.enable().unwrap();
                }
                self.guest = Some(drive(function, ram, &self.options));
            }
            Step::Reconnect => {
                drop(self.guest.take());
                self.guest = Some(boot(&self.disk, &self.options));
            }
            Step::Reattach { new_card } => {
                assert_eq!(self.card.detach(&self.disk, true), "done");
                drop(self.guest.take());
                if new_card {
                    self.card = Card::start(Path::new(PROGRAM));
                }
                assert_eq!(self.card.attach(&self.disk), "done");
                self.guest = Some(boot(&self.disk, &self.options));
            }
        }
    }

    fn batch(&mut self, batch: &[Io]) {
        let queues = self.guest().queue_count();
        let mut waiting = vec![0; queues];
        for (number, io) in batch.iter().enumerate() {
            let command = self.command(number, io);
            let queue = number % queues;
            self.guest().submit(queue, &command).unwrap().unwrap();
            waiting[queue] += 1;
        }
        for queue in 0..queues {
            self.guest().ring(queue).unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while waiting.iter().any(|left| *left > 0) {
            assert!(std::time::Instant::now() < deadline, "commands do not end: {waiting:?}");
            for (queue, left) in waiting.iter_mut().enumerate() {
                while let Some(done) = self.guest.as_mut().unwrap().reap(queue).unwrap() {
                    assert!(done.status.is_success(), "{done:?}");
                    *left -= 1;
                }
                self.guest.as_mut().unwrap().acknowledge(queue).unwrap();
            }
        }
        for (number, io) in batch.iter().enumerate() {
            self.check(number, io);
        }
    }

    fn buffer(number: usize, io: &Io) -> u64 {
        GUEST / 2 + number as u64 * ROOM + io.offset
    }

    /// Prepares memory and model for a command.
    fn command(&mut self, number: usize, io: &Io) -> Command {
        let (lba, buffer) = (io.place * 128 + io.start, Self::buffer(number, io));
        let bytes = usize::try_from(io.blocks * 512).unwrap();
        let at = usize::try_from(lba * 512).unwrap();
        let data: Vec<u8> =
            (0..bytes).map(|byte| io.fill.wrapping_add((byte % 253).to_le_bytes()[0])).collect();
        let operation = match io.kind {
            0..4 => Operation::Read,
            4..6 => Operation::Write,
            6 => Operation::WriteZeroes,
            _ => Operation::Flush,
        };
        match operation {
            Operation::Write => {
                self.guest().memory().write(buffer, &data).unwrap();
                self.model[at..at + bytes].copy_from_slice(&data);
            }
            Operation::WriteZeroes => self.model[at..at + bytes].fill(0),
            Operation::Read => self.guest().memory().write(buffer, &data).unwrap(),
            Operation::Flush => {}
        }
        let blocks = if operation == Operation::Flush { 0 } else { u32::try_from(io.blocks).unwrap() };
        Command { operation, lba, blocks, buffer, durable: io.durable }
    }

    fn check(&mut self, number: usize, io: &Io) {
        if io.kind < 4 {
            let at = usize::try_from((io.place * 128 + io.start) * 512).unwrap();
            let mut back = vec![0; usize::try_from(io.blocks * 512).unwrap()];
            let buffer = Self::buffer(number, io);
            self.guest().memory().read(buffer, &mut back).unwrap();
            assert!(back == self.model[at..at + back.len()], "{io:?} reads something else");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_volume_is_what_the_model_says(
        steps in prop::collection::vec(step(), 10..40),
        shadow_doorbells: bool,
        direct: bool,
        queues in 1..4_u16,
        entries in 41..70_u16,
    ) {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut disk = Disk::new(folder.path(), 1, SIZE as u64);
        disk.direct = direct;
        // What a fresh file decrypts to.
        let mut model = vec![0; SIZE];
        xts::Xts::new(&disk.key).unwrap().decrypt_slice(0, &mut model);
        let card = Card::start(Path::new(PROGRAM));
        assert_eq!(card.attach(&disk), "done");
        let options = Options { queues, entries, shadow_doorbells, ..Options::default() };
        let guest = Some(boot(&disk, &options));
        let mut world = World { card, disk, guest, model, options };
        for step in steps {
            world.run(step);
        }
        let mut whole = vec![0; SIZE];
        world.guest().read(0, &mut whole).unwrap();
        prop_assert!(whole == world.model);
        assert_eq!(world.guest().blocks(), BLOCKS);
        let mut image = std::fs::read(world.disk.image()).unwrap();
        xts::Xts::new(&world.disk.key).unwrap().decrypt_slice(0, &mut image);
        prop_assert!(image == world.model);
    }
}
