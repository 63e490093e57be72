//! A hostile guest and hostile cards against the whole machine without KVM: bytes are ports, addresses,
//! configuration cycles, queues, plugging and pulling. Used by a property test and by the fuzz target `machine`.
//!
//! Nothing may panic; nothing may be mapped twice or outside the windows for BARs; and when all functions are
//! pulled, nothing of them is left.

use super::{
    device::{serve, with_doorbells},
    guest::{BAR, EJECT, EVENTS, Guest, LEAVING, MEMORY, pair},
    liar::Liar,
    nvme::NvmeFunction,
};
use hypervisor::layout;
use rustix::net::{Shutdown, shutdown};
use std::{any::Any, os::fd::OwnedFd, thread::JoinHandle};

/// Most steps of one input.
const STEPS: usize = 200;
/// Where port accesses go.
const PORTS: [u64; 8] = [0xCF8, 0xCFC, 0x3F8, 0x70, layout::POWER.start, EVENTS, LEAVING, EJECT];

/// Input, zeroes after its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// Mostly small numbers.
    fn word(&mut self) -> u64 {
        match self.byte() {
            value @ 0..=0xDF => u64::from(value),
            shift @ 0xE0..=0xEF => u64::from(self.byte()) << ((shift & 15) * 3),
            _ => {
                let mut word = [0; 8];
                let bytes = self.take(8);
                word[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(word)
            }
        }
    }

    /// 1 to 8 bytes.
    fn data(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte() & 7) + 1;
        let mut data = self.word().to_le_bytes().to_vec();
        data.truncate(len);
        data
    }

    fn slot(&mut self) -> u8 {
        self.byte() % 8
    }

    fn address(&mut self) -> u64 {
        let base = match self.byte() & 7 {
            0 => BAR,
            1 => BAR + 0x4000,
            2 => layout::ECAM.start | u64::from(self.byte() & 0xF) << 15,
            3 => layout::mmio64(46).start,
            4 => BAR + 0x2000,
            5 => BAR + 0x7000,
            6 => layout::GENERATION.start,
            _ => 0,
        };
        base.wrapping_add(self.word())
    }
}

struct Host {
    guest: Guest,
    /// Other ends of what was plugged, to cut.
    sockets: Vec<OwnedFd>,
    cards: Vec<JoinHandle<Box<dyn Any + Send>>>,
}

impl Host {
    fn plug<D: vfio_user::Device + Send + 'static>(&mut self, slot: u8, device: D) {
        let (socket, card) = serve(device);
        self.sockets.extend(socket.try_clone());
        // Refusals are what is tested.
        let _ = self.guest.machine.attach(slot, socket);
        self.cards.push(std::thread::spawn(move || Box::new(card.join()) as Box<dyn Any + Send>));
    }

    /// A card that sends these bytes and closes.
    fn plug_noise(&mut self, slot: u8, bytes: &[u8]) {
        let (ours, theirs) = pair();
        let _ = rustix::io::write(&theirs, bytes);
        let _ = shutdown(&theirs, Shutdown::Write);
        assert!(self.guest.machine.attach(slot, ours).is_err());
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let machine = self.guest.machine.clone();
        match input.byte() % 16 {
            0 => {
                let (port, len) = (input.byte(), input.data().len());
                machine.pio.read(PORTS[usize::from(port & 7)] + u64::from(port >> 3), &mut vec![0; len]);
            }
            1 | 2 => {
                let port = input.byte();
                machine.pio.write(PORTS[usize::from(port & 7)] + u64::from(port >> 3 & 3), &input.data());
            }
            3 => {
                let (address, len) = (input.address(), input.data().len());
                machine.mmio.read(address, &mut vec![0; len]);
            }
            4 | 5 => {
                machine.mmio.write(input.address(), &input.data());
            }
            6 => {
                let (slot, bar) = (input.slot(), input.word());
                self.guest.enable(slot, BAR.wrapping_add(bar << 12));
            }
            7 => self.guest.set_config(input.slot(), u16::from(input.byte()), input.word() as u32),
            8 => {
                let (address, data) = (input.word() % (MEMORY / 64) * 64, input.byte());
                let _ = self.guest.memory.write(address, input.take(usize::from(data)));
            }
            9 => self.plug_something(input),
            10 => {
                let _ = machine.detach(input.slot(), input.byte() & 1 == 0);
            }
            11 => {
                if let Some(socket) = self.sockets.get(usize::from(input.byte()) % self.sockets.len().max(1))
                {
                    let _ = shutdown(socket, Shutdown::Both);
                }
            }
            12 => drop((machine.find_lost(), machine.slots())),
            13 => self.move_elsewhere(input),
            14 => {
                machine.console_input(input.take(80));
                machine.press_power_button();
                machine.set_generation([input.byte(); 16]);
            }
            _ => {
                let (vector, slot, control) = (input.byte(), input.slot(), input.byte());
                self.guest.vector(BAR + (u64::from(slot) << 14), u64::from(vector), vector & 1 == 0);
                self.guest.msix(slot, control);
                self.guest.recorder.delivered();
            }
        }
    }

    fn plug_something(&mut self, input: &mut Input<'_>) {
        let slot = input.slot();
        match input.byte() & 3 {
            0 => self.plug(slot, with_doorbells()),
            1 => self.plug(slot, NvmeFunction::new()),
            2 => self.plug(slot, Liar::new(input.take(64))),
            _ => self.plug_noise(slot, input.take(64)),
        }
    }

    /// Freezes the machine, and goes on with it here or in another process.
    fn move_elsewhere(&mut self, input: &mut Input<'_>) {
        let (state, sockets) = self.guest.machine.freeze();
        if input.byte() & 1 == 0 {
            return self.guest.machine.thaw();
        }
        if let Some(other) = self.guest.try_another(&state, &sockets) {
            self.guest = other;
        }
    }

    fn check(&self) {
        let windows = [layout::MMIO32, layout::mmio64(46)];
        for (address, len, _) in self.guest.recorder.state().shared.values() {
            let inside = windows.iter().any(|window| window.contains(address) && address + len <= window.end);
            assert!(inside || layout::GENERATION.contains(address), "{address:#x} is mapped");
        }
    }
}

/// Plays the input out.
pub fn play(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut host = Host { guest: Guest::new(), sockets: Vec::new(), cards: Vec::new() };
    host.plug(1, with_doorbells());
    host.plug(2, NvmeFunction::new());
    host.guest.enable(1, BAR);
    host.guest.enable(2, BAR + 0x4000);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        host.step(&mut input);
        host.check();
    }
    for used in host.guest.machine.slots() {
        host.guest.machine.detach(used.slot, true).unwrap();
    }
    assert!(host.guest.recorder.is_clean());
    host.sockets.clear();
    for card in host.cards {
        card.join().unwrap();
    }
    assert_eq!(host.guest.mappings(), 1);
}
