//! A board with a controller and a disk in memory; the driver drives it in the same thread.

use nvme::driver::{Bar, Command, Done, Driver, Error, Options};
use nvme::spec::{Status, SubmissionEntry};
use nvme::{Backend, Config, Controller, Memory, Operation, Ram, Request, Tag};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

pub const BLOCK: usize = 512;
pub const BLOCKS: u64 = 4096;
pub const RAM: usize = 8 << 20;
/// Microseconds that each look at the queues takes.
pub const TICK: u64 = 10_000;

/// The storage: a model of a medium that carries requests out only when told.
pub struct Disk {
    pub bytes: Vec<u8>,
    pub waiting: VecDeque<Request>,
    pub flushes: usize,
    pub durable_writes: usize,
    /// Whether `cancel` drops what waits.
    pub cancels: bool,
    /// What the next requests end with, instead of being carried out.
    pub failures: VecDeque<Status>,
    /// The most requests that waited at once.
    pub deepest: usize,
}

impl Backend for Disk {
    fn submit(&mut self, request: &Request) {
        let spans: u64 = request.spans().iter().map(|span| u64::from(span.length)).sum();
        match request.operation() {
            Operation::Read | Operation::Write => assert_eq!(spans, request.length()),
            _ => assert_eq!(spans, 0),
        }
        assert!(request.offset() + request.length() <= self.bytes.len() as u64);
        assert!(self.waiting.iter().all(|other| other.tag() != request.tag()), "tag used twice");
        self.waiting.push_back(request.clone());
        self.deepest = self.deepest.max(self.waiting.len());
    }

    fn cancel(&mut self, tag: Tag) -> bool {
        let found = self.waiting.iter().position(|request| request.tag() == tag);
        if let Some(index) = found.filter(|_| self.cancels) {
            self.waiting.remove(index);
            return true;
        }
        false
    }
}

impl Disk {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; BLOCKS as usize * BLOCK],
            waiting: VecDeque::new(),
            flushes: 0,
            durable_writes: 0,
            cancels: false,
            failures: VecDeque::new(),
            deepest: 0,
        }
    }

    fn carry_out(&mut self, ram: &Ram, request: &Request) -> Status {
        if let Some(failure) = self.failures.pop_front() {
            return failure;
        }
        let start = request.offset() as usize;
        let place = &mut self.bytes[start..start + request.length() as usize];
        match request.operation() {
            Operation::Flush => self.flushes += 1,
            Operation::WriteZeroes => place.fill(0),
            operation => {
                let mut at = 0;
                for span in request.spans() {
                    let piece = &mut place[at..at + span.length as usize];
                    at += piece.len();
                    let moved = match operation {
                        Operation::Read => ram.write(span.address, piece),
                        _ => ram.read(span.address, piece),
                    };
                    if moved.is_err() {
                        return Status::DATA_TRANSFER_ERROR;
                    }
                }
            }
        }
        self.durable_writes += usize::from(request.durable());
        Status::SUCCESS
    }
}

/// What runs when the driver waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Look at the queues and carry everything out, oldest first.
    Oldest,
    /// The same, newest first.
    Newest,
    /// Look at the queues only.
    Hold,
    /// Nothing.
    Stop,
}

pub struct Board {
    pub controller: Controller,
    pub disk: Disk,
    pub pace: Pace,
    pub now: u64,
    pub register_writes: usize,
    pub fired: Vec<u16>,
}

impl Board {
    pub fn new(config: Config) -> RefCell<Self> {
        let controller = Controller::new(config, 0).unwrap();
        RefCell::new(Self {
            controller,
            disk: Disk::new(),
            pace: Pace::Oldest,
            now: 0,
            register_writes: 0,
            fired: Vec::new(),
        })
    }

    pub fn poll(&mut self, ram: &Ram) -> usize {
        self.now += TICK;
        let taken = self.controller.poll(&ram, &mut self.disk, usize::MAX, self.now);
        self.fired.extend(self.controller.take_interrupts());
        taken
    }

    /// Carries one waiting request out.
    pub fn finish(&mut self, ram: &Ram, index: usize) {
        let request = self.disk.waiting.remove(index).unwrap();
        let status = self.disk.carry_out(ram, &request);
        self.controller.complete(&ram, request.tag(), status, self.now);
        self.fired.extend(self.controller.take_interrupts());
    }

    pub fn step(&mut self, ram: &Ram) {
        if self.pace == Pace::Stop {
            return;
        }
        self.poll(ram);
        while self.pace != Pace::Hold && !self.disk.waiting.is_empty() {
            let last = self.disk.waiting.len() - 1;
            self.finish(ram, if self.pace == Pace::Oldest { 0 } else { last });
        }
        self.poll(ram);
    }
}

/// The board's BAR.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    pub board: &'a RefCell<Board>,
    pub ram: &'a Ram,
}

impl Bar for Port<'_> {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.board.borrow().controller.read(offset, into);
        Ok(())
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        let mut board = self.board.borrow_mut();
        board.register_writes += 1;
        let _ = board.controller.write(offset, from);
        Ok(())
    }
    fn wait(&mut self) {
        self.board.borrow_mut().step(self.ram);
    }
}

pub type TestDriver<'a> = Driver<Port<'a>, &'a Ram>;

pub fn config() -> Config {
    Config {
        serial: "vol0123456789abcdef0".into(),
        device_name: "/dev/sdf".into(),
        blocks: BLOCKS,
        block_size: 512,
        io_queues: 4,
        max_in_flight: 64,
        volatile_write_cache: true,
    }
}

/// Options for tests: a stuck controller is found out soon.
pub fn options() -> Options {
    Options { timeout: std::time::Duration::from_secs(5), ..Options::default() }
}

pub fn start<'a>(board: &'a RefCell<Board>, ram: &'a Ram, options: &Options) -> TestDriver<'a> {
    Driver::start(Port { board, ram }, ram, 0x1000..RAM as u64, options).unwrap()
}

/// A read or write of `blocks` from `lba`.
pub fn transfer(operation: Operation, lba: u64, blocks: u32, buffer: u64) -> Command {
    Command { operation, lba, blocks, buffer, durable: false }
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Executes a raw command on an I/O queue.
pub fn run(driver: &mut TestDriver<'_>, queue: usize, entry: SubmissionEntry) -> Done {
    let (pair, memory, bar) = driver.queue(queue).unwrap();
    let cid = pair.submit_entry(memory, entry).unwrap().expect("queue full");
    pair.ring(memory, bar).unwrap();
    let done = wait(driver, queue);
    assert_eq!(done.cid, cid);
    done
}

/// Waits for the next completion.
pub fn wait(driver: &mut TestDriver<'_>, queue: usize) -> Done {
    for _ in 0..1000 {
        if let Some(done) = driver.reap(queue).unwrap() {
            driver.acknowledge(queue).unwrap();
            return done;
        }
        driver.bar().wait();
    }
    panic!("no completion");
}

/// An admin command's status code, or its result.
pub fn admin(driver: &mut TestDriver<'_>, entry: SubmissionEntry) -> Result<u32, Status> {
    match driver.admin(entry) {
        Ok(result) => Ok(result),
        Err(Error::Status(status)) => Err(status),
        Err(other) => panic!("{other}"),
    }
}

/// An entry from opcode, namespace and dwords 10 to 12.
pub fn entry(opcode: u8, nsid: u32, cdw10: u32, cdw11: u32, cdw12: u32) -> SubmissionEntry {
    SubmissionEntry {
        opcode,
        nsid: nsid.into(),
        cdw10: cdw10.into(),
        cdw11: cdw11.into(),
        cdw12: cdw12.into(),
        ..SubmissionEntry::default()
    }
}
