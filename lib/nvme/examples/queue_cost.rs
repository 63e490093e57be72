//! What queue handling alone costs: driver and controller in one thread, a backend that does nothing.
//! Prints nanoseconds for each 4 KiB read, both sides together, by depth.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

use nvme::driver::{Bar, Command, Driver, Options};
use nvme::spec::Status;
use nvme::{Backend, Config, Controller, Memory, MemoryFault, Operation, Request, Tag};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Memory of 32-bit words, so that both sides can share it without locks.
struct Words(Vec<AtomicU32>);

impl Words {
    fn at(&self, address: u64, length: usize) -> Result<&[AtomicU32], MemoryFault> {
        let fault = MemoryFault { address, length };
        let start = usize::try_from(address / 4).map_err(|_| fault)?;
        self.0.get(start..start + length / 4).ok_or(fault)
    }
}

impl Memory for Words {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let words = self.at(address, into.len())?;
        for (into, word) in into.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *into = word.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(())
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        let words = self.at(address, from.len())?;
        for (from, word) in from.as_chunks::<4>().0.iter().zip(words) {
            word.store(u32::from_le_bytes(*from), Ordering::Relaxed);
        }
        Ok(())
    }
    fn load_u32(&self, address: u64) -> Result<u32, MemoryFault> {
        Ok(self.at(address, 4)?.first().map_or(0, |word| word.load(Ordering::Acquire)))
    }
    fn store_u32(&self, address: u64, value: u32) -> Result<(), MemoryFault> {
        if let Some(word) = self.at(address, 4)?.first() {
            word.store(value, Ordering::Release);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Null(Vec<Tag>);

impl Backend for Null {
    fn submit(&mut self, request: &Request) {
        self.0.push(request.tag());
    }
}

struct Board {
    controller: Controller,
    backend: Null,
}

#[derive(Clone, Copy)]
struct Port<'a>(&'a RefCell<Board>, &'a Words);

impl Bar for Port<'_> {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.borrow().controller.read(offset, into);
        Ok(())
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        let _ = self.0.borrow_mut().controller.write(offset, from);
        Ok(())
    }
    fn wait(&mut self) {
        let Board { controller, backend } = &mut *self.0.borrow_mut();
        controller.poll(&self.1, backend, usize::MAX, 0);
        for tag in backend.0.drain(..) {
            controller.complete(&self.1, tag, Status::SUCCESS, 0);
        }
    }
}

const RAM: u64 = 8 << 20;
const ROUNDS: u64 = 2_000_000;

fn measure(depth: u64, blocks: u32) -> f64 {
    let words = Words((0..RAM / 4).map(|_| AtomicU32::new(0)).collect());
    let config = Config {
        serial: "vol0123456789abcdef0".into(),
        device_name: "/dev/sdf".into(),
        blocks: 1 << 20,
        block_size: 512,
        io_queues: 1,
        max_in_flight: 1024,
        volatile_write_cache: true,
    };
    let board = Board { controller: Controller::new(config, 0).unwrap(), backend: Null::default() };
    let board = RefCell::new(board);
    let mut port = Port(&board, &words);
    let options = Options { entries: 1024, shadow_doorbells: true, ..Options::default() };
    let mut driver = Driver::start(port, &words, 0x1000..RAM, &options).unwrap();
    let buffer = driver.allocate(0x4_0000).unwrap();
    let command = Command { operation: Operation::Read, lba: 0, blocks, buffer, durable: false };
    let begin = Instant::now();
    for _ in 0..ROUNDS / depth {
        for _ in 0..depth {
            driver.submit(0, &command).unwrap().unwrap();
        }
        driver.ring(0).unwrap();
        port.wait();
        for _ in 0..depth {
            driver.reap(0).unwrap().unwrap();
        }
        driver.acknowledge(0).unwrap();
    }
    let counters = board.borrow().controller.counters();
    begin.elapsed().as_secs_f64() * 1e9 / (counters.reads as f64)
}

fn main() {
    for (blocks, name) in [(8, "4 KiB"), (256, "128 KiB")] {
        for depth in [1, 32, 128] {
            println!("{name}, depth {depth}: {:.0} ns for each read", measure(depth, blocks));
        }
    }
}
