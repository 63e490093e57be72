//! A hostile guest: bytes drive registers, memory, doorbells, polls and completions. Used by a property test and by
//! the fuzz target `nvme_commands`.
//!
//! The controller must not panic, and what it does must stay within what it promised: see `Host::check`.

use nvme::spec::{Completion, Status, SubmissionEntry};
use nvme::{Backend, Config, Controller, MAX_SPANS, Memory, MemoryFault, Operation, Ram, Request, Tag};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;
const PAGES: u64 = 64;
const BLOCKS: u64 = 1000;
const IN_FLIGHT: u16 = 6;
const QUEUES: u16 = 2;
/// Entries: admin queue, then both I/O queues.
const ENTRIES: [u16; 3] = [4, 3, 7];
/// Pages 2n and 2n + 1 are submission and completion queue n; 6 and 7 are for shadow doorbells; data follows.
const SHADOW: u64 = 6 * PAGE;
const DATA: u64 = 8 * PAGE;

/// Guest memory that notes completions and can be taken away.
struct Guest {
    ram: Ram,
    gone: Cell<bool>,
    posts: RefCell<Vec<(u64, Completion)>>,
}

impl Guest {
    fn fault(&self, address: u64, length: usize) -> Result<(), MemoryFault> {
        if self.gone.get() { Err(MemoryFault { address, length }) } else { Ok(()) }
    }
}

impl Memory for Guest {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.fault(address, into.len())?;
        self.ram.read(address, into)
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.fault(address, from.len())?;
        self.ram.write(address, from)
    }
    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        self.fault(address, 4)?;
        self.ram.load_u32(address)
    }
    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        self.fault(address, 4)?;
        self.ram.store_u32(address, value)?;
        if address < SHADOW {
            let mut entry = Completion::default();
            self.ram.read(address - 12, entry.as_mut_bytes())?;
            self.posts.borrow_mut().push((address - 12, entry));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Storage {
    waiting: Vec<Tag>,
    cancels: bool,
    blocks: u64,
}

impl Backend for Storage {
    fn submit(&mut self, request: &Request) {
        let spans = request.spans();
        let bytes: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
        let transfers = matches!(request.operation(), Operation::Read | Operation::Write);
        assert!(spans.len() <= MAX_SPANS);
        assert!(spans.iter().all(|span| span.address % 4 == 0 && span.length > 0));
        assert_eq!(bytes, if transfers { request.length() } else { 0 });
        assert!(request.lba() + u64::from(request.blocks()) <= self.blocks);
        assert!(!self.waiting.contains(&request.tag()) && request.tag().index() < usize::from(IN_FLIGHT));
        self.waiting.push(request.tag());
    }

    fn cancel(&mut self, tag: Tag) -> bool {
        let found = self.waiting.iter().position(|&waiting| waiting == tag).filter(|_| self.cancels);
        found.map(|index| self.waiting.swap_remove(index)).is_some()
    }
}

/// Input, zeroes after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
    fn word(&mut self) -> u32 {
        // Mostly small numbers: one byte of four, and where it stands.
        match self.byte() {
            value @ 0..=0xdf => u32::from(value),
            shift @ 0xe0..=0xef => u32::from(self.byte()) << ((shift & 15) * 2),
            _ => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
        }
    }
    fn address(&mut self) -> u64 {
        let (page, offset) = (self.byte(), self.byte());
        let wild = if page == 0xff { 0xffff_ffff_fff0_0000 } else { 0 };
        wild | (u64::from(page) % (PAGES - 7) * PAGE + DATA)
            | u64::from(offset) << 4 & 0xff8
            | u64::from(offset & 3)
    }
}

/// One queue pair as a guest sees it that minds the rules.
#[derive(Default, Clone)]
struct Pair {
    tail: u16,
    /// Completions that arrived, and those given back.
    posted: u64,
    freed: u64,
    commands: HashSet<u16>,
}

struct Host {
    controller: Controller,
    guest: Guest,
    storage: Storage,
    /// Minds the rules for queues and doorbells, so that completions can be accounted for.
    tame: bool,
    shadow: bool,
    pairs: Vec<Pair>,
    next_cid: u16,
    now: u64,
    completions: usize,
}

/// Plays the input out. How many completions came of it.
pub fn play(bytes: &[u8]) -> usize {
    let mut input = Input(bytes);
    let config = Config {
        serial: "vol0123456789abcdef0".into(),
        device_name: "/dev/sdf".into(),
        blocks: BLOCKS,
        block_size: 512,
        io_queues: QUEUES,
        max_in_flight: IN_FLIGHT,
        volatile_write_cache: input.byte() & 1 == 0,
    };
    let Ok(controller) = Controller::new(config, 0) else { unreachable!("the configuration is valid") };
    let ram = Ram::new((PAGES * PAGE) as usize);
    let mut host = Host {
        controller,
        guest: Guest { ram, gone: Cell::new(false), posts: RefCell::default() },
        storage: Storage { blocks: BLOCKS, ..Storage::default() },
        tame: input.byte() & 1 == 0,
        shadow: false,
        pairs: vec![Pair::default(); ENTRIES.len()],
        next_cid: 0,
        now: 0,
        completions: 0,
    };
    while !input.0.is_empty() {
        host.step(&mut input);
        host.check();
    }
    host.completions
}

impl Host {
    fn step(&mut self, input: &mut Input<'_>) {
        self.now += 1000;
        match input.byte() % 16 {
            0 => self.enable(),
            1 => self.make_queue(1 + u16::from(input.byte()) % QUEUES),
            2 | 3 => self.admin(input),
            4..=6 => self.io(input),
            7 | 8 => {
                let budget = usize::from(input.byte());
                let taken = self.controller.poll(&self.guest, &mut self.storage, budget, self.now);
                assert!(taken <= budget);
            }
            9 | 10 => self.complete(input),
            11 => self.free(usize::from(input.byte()) % ENTRIES.len(), input.byte()),
            12 => {
                // Only data: what the queues hold is the tame guest's to keep right.
                let (address, value) = (input.address() & !3, input.word());
                let _ = self.guest.ram.store_u32(address, value);
            }
            13 => self.misbehave(input),
            14 => {
                self.controller.arm(&self.guest);
            }
            _ => self.rare(input),
        }
    }

    fn write32(&mut self, offset: u64, value: u32) {
        let _ = self.controller.write(offset, &value.to_le_bytes());
    }

    fn enable(&mut self) {
        self.write32(0x14, 0);
        self.forget_queues();
        let last = u32::from(ENTRIES[0] - 1);
        self.write32(0x24, last << 16 | last);
        let _ = self.controller.write(0x28, &0u64.to_le_bytes());
        let _ = self.controller.write(0x30, &PAGE.to_le_bytes());
        self.write32(0x14, 0x0046_0001);
    }

    fn forget_queues(&mut self) {
        self.pairs = vec![Pair::default(); ENTRIES.len()];
        self.shadow = false;
    }

    fn put(&mut self, queue: u16, mut entry: SubmissionEntry) {
        let size = ENTRIES[usize::from(queue)];
        let shadow = self.shadow && queue > 0;
        let pair = &mut self.pairs[usize::from(queue)];
        // No more commands than entries, so that a tame guest overwrites none that was not fetched.
        if pair.commands.len() >= usize::from(size - 1) {
            return;
        }
        self.next_cid = self.next_cid.wrapping_add(1);
        entry.cid.set(self.next_cid);
        let place = u64::from(queue) * 2 * PAGE + u64::from(pair.tail) * 64;
        let _ = self.guest.ram.write(place, entry.as_bytes());
        pair.tail = (pair.tail + 1) % size;
        pair.commands.insert(self.next_cid);
        let tail = u32::from(pair.tail);
        if shadow {
            let _ = self.guest.ram.store_u32(SHADOW + u64::from(queue) * 8, tail);
        }
        self.write32(0x1000 + u64::from(queue) * 8, tail);
    }

    fn make_queue(&mut self, id: u16) {
        if self.pairs[usize::from(id)].posted > 0 || !self.pairs[usize::from(id)].commands.is_empty() {
            return;
        }
        let size = u32::from(ENTRIES[usize::from(id)] - 1) << 16 | u32::from(id);
        for (opcode, page, cdw11) in [(5, 1, u32::from(id) << 16 | 3), (1, 0, u32::from(id) << 16 | 1)] {
            let prp1 = (u64::from(id) * 2 + page) * PAGE;
            let (cdw10, cdw11) = (size.into(), cdw11.into());
            self.put(0, SubmissionEntry { opcode, prp1: prp1.into(), cdw10, cdw11, ..Default::default() });
            self.controller.poll(&self.guest, &mut self.storage, 0, self.now);
            self.check();
            self.free(0, u8::MAX);
        }
    }

    fn entry(input: &mut Input<'_>, opcode: u8) -> SubmissionEntry {
        let nsid = input.byte();
        SubmissionEntry {
            opcode,
            flags: if nsid == 0x80 { input.byte() } else { 0 },
            nsid: match nsid {
                0..=0xcf => 1,
                0xd0..=0xef => 0xffff_ffff,
                other => u32::from(other),
            }
            .into(),
            prp1: input.address().into(),
            prp2: input.address().into(),
            cdw10: input.word().into(),
            cdw11: input.word().into(),
            cdw12: input.word().into(),
            ..SubmissionEntry::default()
        }
    }

    fn admin(&mut self, input: &mut Input<'_>) {
        let opcode = match input.byte() {
            known @ 0..=0xdf => [2, 6, 8, 9, 0x0a, 0x0c, 0, 1, 4, 5, 0x7c][usize::from(known) % 11],
            _ => input.byte(),
        };
        if !(self.tame && matches!(opcode, 0 | 1 | 4 | 5 | 0x7c)) {
            let entry = Self::entry(input, opcode);
            self.put(0, entry);
        }
    }

    fn io(&mut self, input: &mut Input<'_>) {
        let queue = 1 + u16::from(input.byte()) % QUEUES;
        let opcode = match input.byte() {
            known @ 0..=0xf7 => [0, 1, 2, 8, 9][usize::from(known) % 5],
            _ => input.byte(),
        };
        let mut entry = Self::entry(input, opcode);
        if input.byte() & 1 == 0 {
            entry.cdw11.set(0);
        }
        self.put(queue, entry);
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        if self.storage.waiting.is_empty() {
            return;
        }
        let index = usize::from(input.byte()) % self.storage.waiting.len();
        let tag = self.storage.waiting.swap_remove(index);
        let status = [Status::SUCCESS, Status::SUCCESS, Status::WRITE_FAULT, Status::DATA_TRANSFER_ERROR];
        let status = status[usize::from(input.byte()) % status.len()];
        self.controller.complete(&self.guest, tag, status, self.now);
    }

    /// Gives completion entries back, as far as there are some.
    fn free(&mut self, queue: usize, most: u8) {
        let pair = &mut self.pairs[queue];
        pair.freed += u64::from(most).min(pair.posted - pair.freed);
        let head = (pair.freed % u64::from(ENTRIES[queue])) as u32;
        if self.shadow && queue > 0 {
            let _ = self.guest.ram.store_u32(SHADOW + queue as u64 * 8 + 4, head);
        }
        self.write32(0x1000 + queue as u64 * 8 + 4, head);
    }

    /// What no driver does.
    fn misbehave(&mut self, input: &mut Input<'_>) {
        if self.tame {
            return;
        }
        match input.byte() % 4 {
            0 => {
                let offset = u64::from(input.word());
                let value = u64::from(input.word()) << 32 | u64::from(input.word());
                let length = usize::from(input.byte()) % 9;
                let _ = self.controller.write(offset, &value.to_le_bytes()[..length]);
            }
            1 => {
                let doorbell = u64::from(input.byte()) % 8;
                let value = input.word();
                self.write32(0x1000 + doorbell * 4, value);
            }
            2 => {
                let (address, value) = (u64::from(input.word()) * 4, input.word());
                let _ = self.guest.ram.store_u32(address, value);
            }
            _ => {
                let tag = Tag::from_index(u16::from(input.byte()));
                self.storage.waiting.retain(|&waiting| waiting != tag);
                self.controller.complete(&self.guest, tag, Status::SUCCESS, self.now);
            }
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0 => {
                self.controller.reset();
                self.forget_queues();
            }
            1 => self.controller.surprise_remove(),
            2 => self.guest.gone.set(true),
            3..=5 => self.guest.gone.set(false),
            6 => self.storage.cancels ^= true,
            7 => self.write32(0x14, 0x0046_4001),
            8 => {
                let blocks = u64::from(input.word());
                if self.controller.resize(blocks).is_ok() {
                    self.storage.blocks = blocks;
                }
            }
            9 | 10 if !self.shadow => {
                let (prp1, prp2) = (SHADOW.into(), (SHADOW + PAGE).into());
                self.put(0, SubmissionEntry { opcode: 0x7c, prp1, prp2, ..Default::default() });
                self.controller.poll(&self.guest, &mut self.storage, 0, self.now);
                self.shadow = self.controller.state().shadow_doorbells;
                if self.shadow {
                    self.refresh_shadow();
                }
            }
            _ => {
                let mut bytes = [0; 8];
                let offset = u64::from(input.word());
                self.controller.read(offset, &mut bytes);
            }
        }
    }

    /// The controller copied the doorbells that it had seen; those that this side had written must be the same.
    fn refresh_shadow(&mut self) {
        for (queue, pair) in self.pairs.iter().enumerate().skip(1) {
            let place = SHADOW + queue as u64 * 8;
            let _ = self.guest.ram.store_u32(place, u32::from(pair.tail));
            let head = (pair.freed % u64::from(ENTRIES[queue])) as u32;
            let _ = self.guest.ram.store_u32(place + 4, head);
        }
    }

    fn check(&mut self) {
        let vectors: Vec<_> = self.controller.take_interrupts().collect();
        assert!(vectors.iter().all(|&vector| vector <= QUEUES));
        assert_eq!(self.controller.state().in_flight, self.storage.waiting.len());
        for (address, entry) in self.guest.posts.take() {
            self.completions += 1;
            if !self.tame {
                continue;
            }
            // Each completion is for a command that waits for one, in the next entry, and overwrites none that was
            // not given back.
            let queue = (address / PAGE / 2) as usize;
            let pair = &mut self.pairs[queue];
            let size = u64::from(ENTRIES[queue]);
            assert_eq!(address, (queue as u64 * 2 + 1) * PAGE + pair.posted % size * 16);
            assert_eq!(entry.phase(), (pair.posted / size).is_multiple_of(2));
            assert_eq!(usize::from(entry.sq_id.get()), queue);
            assert!(pair.commands.remove(&entry.cid.get()), "completed twice, or never submitted");
            pair.posted += 1;
            assert!(pair.posted - pair.freed < size, "completion queue overrun");
        }
    }
}
