//! A driver for NVMe with interrupts, as small as a test needs.

use crate::apic;
use crate::arch::{MESSAGES, count, peek, poke};
use crate::machine::Machine;
use crate::pci::{self, Function, Messages};
use crate::report::{Outcome, fail, require, skip};

/// Entries of each queue.
pub(crate) const DEPTH: u32 = 64;
/// Pairs of I/O queues, each with its own interrupt.
pub(crate) const PAIRS: u32 = 2;
/// Most bytes that one transfer of `transfer` moves.
pub(crate) const MOST: u64 = 128 << 10;

/// A queue pair.
pub(crate) struct Queue {
    number: u32,
    submissions: u64,
    completions: u64,
    doorbell: u64,
    stride: u64,
    tail: u32,
    head: u32,
    phase: bool,
    /// Interrupt vector.
    pub(crate) vector: u8,
}

/// A completion.
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    /// Command specific.
    pub(crate) result: u32,
    /// Which command.
    pub(crate) id: u16,
    /// Status code and type; 0 is success.
    pub(crate) status: u16,
}

/// A command: 64 bytes as words.
pub(crate) type Command = [u32; 16];

/// A command of this operation on namespace 1.
pub(crate) fn command(operation: u8, namespace: u32) -> Command {
    let mut words = [0; 16];
    words[0] = u32::from(operation);
    words[1] = namespace;
    words
}

/// Puts the address of data into a command.
pub(crate) fn data(words: &mut Command, address: u64) {
    words[6] = address as u32;
    words[7] = (address >> 32) as u32;
}

impl Queue {
    fn new(machine: &mut Machine, controller: u64, number: u32) -> Self {
        let pages = machine.pages(2);
        let stride = 4u64 << (peek::<u64>(controller) >> 32 & 0xf);
        Self {
            number,
            submissions: pages,
            completions: pages + 4096,
            doorbell: controller + 0x1000 + 2 * u64::from(number) * stride,
            stride,
            tail: 0,
            head: 0,
            phase: true,
            vector: MESSAGES + number as u8,
        }
    }

    /// Puts a command into the queue without telling the device. Its id is its place.
    pub(crate) fn put(&mut self, mut words: Command) -> u16 {
        words[0] |= self.tail << 16;
        for (n, word) in words.iter().enumerate() {
            poke(self.submissions + u64::from(self.tail) * 64 + 4 * n as u64, *word);
        }
        let id = self.tail as u16;
        self.tail = (self.tail + 1) % DEPTH;
        id
    }

    /// Tells the device.
    pub(crate) fn ring(&self) {
        poke(self.doorbell, self.tail);
    }

    /// A completion, if one is there.
    pub(crate) fn take(&mut self) -> Option<Completion> {
        let at = self.completions + u64::from(self.head) * 16;
        let last = peek::<u32>(at + 12);
        if (last >> 16 & 1 == 1) != self.phase {
            return None;
        }
        let found = Completion { result: peek(at), id: last as u16, status: (last >> 17) as u16 & 0x7ff };
        self.head = (self.head + 1) % DEPTH;
        self.phase ^= self.head == 0;
        poke(self.doorbell + self.stride, self.head);
        Some(found)
    }

    /// The next completion, asleep until its interrupt.
    pub(crate) fn wait(&mut self, machine: &Machine) -> Outcome<Completion> {
        let start = machine.clock.now();
        loop {
            let seen = count(self.vector);
            if let Some(found) = self.take() {
                return Ok(found);
            }
            let over = machine.clock.now() > start + 5_000_000_000;
            require!(!over, "queue {}: no completion in 5 s", self.number);
            let came = apic::wait_for(machine, self.vector, seen, 5000);
            if !came && let Some(found) = self.take() {
                fail!("queue {}: command {} was done, but no interrupt came", self.number, found.id);
            }
        }
    }

    /// One command from start to end; fails unless it succeeds.
    pub(crate) fn run(&mut self, machine: &Machine, words: Command) -> Outcome<Completion> {
        let id = self.put(words);
        self.ring();
        let done = self.wait(machine)?;
        require!(done.id == id, "queue {}: command {} was answered, not {id}", self.number, done.id);
        require!(done.status == 0, "operation {:#x}: status {:#x}", words[0], done.status);
        Ok(done)
    }
}

/// A controller with its queues.
pub(crate) struct Nvme {
    /// Where it is.
    pub(crate) function: Function,
    /// Its interrupts.
    pub(crate) messages: Messages,
    /// The admin queue.
    pub(crate) admin: Queue,
    /// The I/O queues.
    pub(crate) queues: [Queue; PAIRS as usize],
    /// Bytes of a block.
    pub(crate) block: u64,
    /// Blocks of namespace 1.
    pub(crate) blocks: u64,
    /// A page of identify data: controller, then namespace.
    pub(crate) identity: u64,
    registers: u64,
}

impl Nvme {
    /// The first NVMe controller on the bus.
    pub(crate) fn find() -> Outcome<Function> {
        let found = pci::functions().find(|function| function.read(8) >> 8 == 0x01_0802);
        let Some(function) = found else { skip!("no NVMe function") };
        Ok(function)
    }

    /// Resets the controller, enables it, identifies it and makes its queues.
    pub(crate) fn start(machine: &mut Machine, function: Function) -> Outcome<Self> {
        let bars = function.start()?;
        let Some(bar) = bars[0] else { fail!("no BAR 0") };
        let registers = function.place(bar);
        let messages = Messages::enable(function, &bars)?;
        require!(messages.count > PAIRS, "{} interrupts", messages.count);
        let admin = Queue::new(machine, registers, 0);
        let queues = [1, 2].map(|number| Queue::new(machine, registers, number));
        let identity = machine.pages(2);
        let mut nvme = Self { function, messages, admin, queues, block: 0, blocks: 0, identity, registers };
        (0..=PAIRS).for_each(|entry| nvme.messages.connect(entry, MESSAGES + entry as u8));
        nvme.ready(machine, false)?;
        poke(registers + 0x24, (DEPTH - 1) << 16 | (DEPTH - 1));
        for (at, address) in [(0x28, nvme.admin.submissions), (0x30, nvme.admin.completions)] {
            poke(registers + at, address as u32);
            poke(registers + at + 4, (address >> 32) as u32);
        }
        nvme.ready(machine, true)?;
        nvme.identify(machine)?;
        nvme.make_queues(machine)?;
        Ok(nvme)
    }

    /// Enables or disables the controller and waits for it.
    pub(crate) fn ready(&self, machine: &Machine, on: bool) -> Outcome<()> {
        poke(self.registers + 0x14, if on { 0x46_0001 } else { 0u32 });
        let until = machine.clock.now() + 10_000_000_000;
        while peek::<u32>(self.registers + 0x1c) & 1 != u32::from(on) {
            require!(machine.clock.now() < until, "not ready={on} in 10 s");
            machine.clock.spin(100_000);
        }
        Ok(())
    }

    fn identify(&mut self, machine: &Machine) -> Outcome<()> {
        for (what, namespace, to) in [(1, 0, self.identity), (0, 1, self.identity + 4096)] {
            let mut words = command(6, namespace);
            data(&mut words, to);
            words[10] = what;
            self.admin.run(machine, words)?;
        }
        let namespace = self.identity + 4096;
        let format = u64::from(peek::<u8>(namespace + 26) & 15);
        self.block = 1 << (peek::<u32>(namespace + 128 + 4 * format) >> 16 & 0xff);
        self.blocks = peek(namespace);
        require!((512..=4096).contains(&self.block), "blocks of {} bytes", self.block);
        Ok(())
    }

    fn make_queues(&mut self, machine: &Machine) -> Outcome<()> {
        let mut wanted = command(9, 0);
        wanted[10] = 7;
        wanted[11] = (PAIRS - 1) << 16 | (PAIRS - 1);
        let given = self.admin.run(machine, wanted)?.result;
        require!(given & 0xffff >= PAIRS - 1 && given >> 16 >= PAIRS - 1, "queues granted: {given:#x}");
        for number in 1..=PAIRS {
            let queue = &self.queues[number as usize - 1];
            let mut completions = command(5, 0);
            data(&mut completions, queue.completions);
            completions[10] = (DEPTH - 1) << 16 | number;
            completions[11] = number << 16 | 3;
            let mut submissions = command(1, 0);
            data(&mut submissions, queue.submissions);
            submissions[10] = completions[10];
            submissions[11] = number << 16 | 1;
            self.admin.run(machine, completions)?;
            self.admin.run(machine, submissions)?;
        }
        Ok(())
    }

    /// A read or write of `bytes` (up to `MOST`, whole blocks) at `block`; `list` is a page for addresses.
    pub(crate) fn transfer(&self, write: bool, block: u64, memory: u64, bytes: u64, list: u64) -> Command {
        let mut words = command(if write { 1 } else { 2 }, 1);
        data(&mut words, memory);
        let pages = bytes.div_ceil(4096);
        let second = if pages > 2 { list } else { memory + 4096 };
        if pages > 1 {
            words[8] = second as u32;
            words[9] = (second >> 32) as u32;
        }
        if pages > 2 {
            (1..pages).for_each(|page| poke(list + 8 * (page - 1), memory + 4096 * page));
        }
        words[10] = block as u32;
        words[11] = (block >> 32) as u32;
        words[12] = (bytes / self.block - 1) as u32;
        words
    }

    /// Lets the function go: controller off, interrupts off, no longer a bus master.
    pub(crate) fn stop(self, machine: &Machine) -> Outcome<()> {
        self.ready(machine, false)?;
        self.messages.disable();
        self.function.enable(false);
        Ok(())
    }
}
