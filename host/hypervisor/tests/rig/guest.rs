//! A machine with a recorder, and what a guest does with it.

use super::recorder::Recorder;
use hypervisor::{
    console::Output,
    layout,
    machine::{Config, Machine, MachineState},
    memory::Memory,
    smbios::Identity,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use vfio_user::Socket;

pub const MEMORY: u64 = 64 << 20;
pub const BAR: u64 = layout::MMIO32.start;
/// Where the hot-plug registers are.
pub const EVENTS: u64 = layout::POWER.start + 3;
pub const FILLED: u64 = layout::POWER.start + 4;
pub const LEAVING: u64 = layout::POWER.start + 8;
pub const EJECT: u64 = layout::POWER.start + 12;

#[derive(Clone, Default)]
pub struct Console(pub Arc<Mutex<Vec<u8>>>);

impl Output for Console {
    fn put(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

pub struct Guest {
    pub machine: Arc<Machine>,
    pub memory: Arc<Memory>,
    pub recorder: Arc<Recorder>,
    pub console: Console,
}

impl Guest {
    pub fn new() -> Self {
        let (recorder, console) = (Arc::new(Recorder::default()), Console::default());
        let memory = Arc::new(Memory::new(MEMORY).unwrap());
        let output = Box::new(console.clone());
        let machine = Machine::new(recorder.clone(), memory.clone(), &Self::facts(), output).unwrap();
        Self { machine: Arc::new(machine), memory, recorder, console }
    }

    /// As another process would go on, over the same memory. This one is no more.
    pub fn become_another(self, state: &MachineState, sockets: &[Arc<Socket>]) -> Self {
        self.try_another(state, sockets).unwrap()
    }

    /// The same, if the state is good; this one must not be used then.
    pub fn try_another(&self, state: &MachineState, sockets: &[Arc<Socket>]) -> Option<Self> {
        let sockets = sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned().unwrap()).collect();
        let (recorder, console) = (Arc::new(Recorder::default()), self.console.clone());
        let memory = Arc::new(Memory::adopt(self.memory.file().try_clone_to_owned().unwrap()).unwrap());
        let output = Box::new(console.clone());
        let machine =
            Machine::resume(recorder.clone(), memory.clone(), &Self::facts(), output, state, sockets);
        Some(Self { machine: Arc::new(machine.ok()?), memory, recorder, console })
    }

    fn facts() -> Config {
        let identity = Identity {
            instance: "i-0123456789abcdef0".into(),
            kind: "m5.large".into(),
            uuid: [0xEC; 16],
            memory: MEMORY,
            processors: 2,
        };
        Config { identity, apic_ids: vec![0, 1], physical_bits: 46, generation: [7; 16] }
    }

    pub fn inb(&self, port: u64) -> u8 {
        let mut byte = [0];
        self.machine.pio.read(port, &mut byte);
        byte[0]
    }

    pub fn inl(&self, port: u64) -> u32 {
        let mut word = [0; 4];
        self.machine.pio.read(port, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn outl(&self, port: u64, value: u32) {
        self.machine.pio.write(port, &value.to_le_bytes());
    }

    pub fn read32(&self, address: u64) -> u32 {
        let mut word = [0; 4];
        self.machine.mmio.read(address, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write32(&self, address: u64, value: u32) {
        self.machine.mmio.write(address, &value.to_le_bytes());
    }

    fn ecam(slot: u8, register: u16) -> u64 {
        layout::ECAM.start + (u64::from(slot) << 15) + u64::from(register)
    }

    pub fn config(&self, slot: u8, register: u16) -> u32 {
        self.read32(Self::ecam(slot, register))
    }

    pub fn set_config(&self, slot: u8, register: u16, value: u32) {
        self.write32(Self::ecam(slot, register), value);
    }

    /// Lets a function decode BAR 0 at `address` and use memory.
    pub fn enable(&self, slot: u8, address: u64) {
        self.set_config(slot, 0x10, (address & 0xFFFF_FFFF) as u32);
        self.set_config(slot, 0x14, (address >> 32) as u32);
        self.machine.mmio.write(Self::ecam(slot, 4), &[6, 0]);
    }

    /// Turns MSI-X on or off, or masks it as a whole.
    pub fn msix(&self, slot: u8, high: u8) {
        self.machine.mmio.write(Self::ecam(slot, 0x83), &[high]);
    }

    /// Writes a table entry of the card's MSI-X table at `0x2000`.
    pub fn vector(&self, bar: u64, vector: u64, masked: bool) {
        let at = bar + 0x2000 + 16 * vector;
        self.write32(at, 0xFEE0_0000);
        self.write32(at + 4, 0);
        self.write32(at + 8, 0x40 + vector as u32);
        self.write32(at + 12, u32::from(masked));
    }

    /// The lines of `/proc/self/maps` that show this guest's memory: one is its own.
    pub fn mappings(&self) -> usize {
        let inode = rustix::fs::fstat(self.memory.file()).unwrap().st_ino.to_string();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.split_whitespace().nth(4) == Some(&inode)).count()
    }
}

/// BAR 0 of a function, through the machine's bus.
pub struct Window(pub Arc<Machine>, pub u64);

impl nvme::driver::Bar for Window {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.mmio.read(self.1 + offset, into);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.mmio.write(self.1 + offset, from);
        Ok(())
    }
}

/// The guest's memory, as its driver has it.
pub struct Ram(pub Arc<Memory>);

impl nvme::Memory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), nvme::MemoryFault> {
        let length = into.len();
        self.0.read(address, into).map_err(|_| nvme::MemoryFault { address, length })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), nvme::MemoryFault> {
        self.0.write(address, from).map_err(|_| nvme::MemoryFault { address, length: from.len() })
    }

    fn load_u32(&self, address: u64) -> Result<u32, nvme::MemoryFault> {
        let mut word = [0; 4];
        nvme::Memory::read(self, address, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), nvme::MemoryFault> {
        nvme::Memory::write(self, address, &value.to_le_bytes())
    }
}

/// A socket pair: the machine's end, the card's end.
pub fn pair() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// Waits for what another thread does.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < limit, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
