//! A machine with a recorder instead of devices.

use crate::image::sealed;
use hypervisor::{
    boot::{self, Image, Source},
    bus::Device,
    cpu::{Promise, Topology},
    memory::Memory,
    vcpu::{Buses, Gate, Outcome, Processors, Vcpu},
    vm::{self, Vm},
};
use kvm_ioctls::Kvm;
use std::{
    fs::OpenOptions,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use wire::hypervisor::Instructions;

/// Where guests report: what is written to [`TELL`] is recorded, [`END`] ends the machine, [`ASK`] gives 0x5A.
pub(crate) const TELL: u8 = 0x10;
pub(crate) const END: u8 = 0x11;
pub(crate) const ASK: u8 = 0x12;
/// A memory-mapped register that gives its offset.
pub(crate) const REGISTER: u64 = 0xD000_0000;

/// `/dev/kvm`, or `None` with a line that says so.
pub(crate) fn kvm() -> Option<Kvm> {
    device().map(|device| vm::kvm(device).expect("/dev/kvm of the known version"))
}

/// Its descriptor.
pub(crate) fn device() -> Option<OwnedFd> {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(file.into()),
        Err(error) => {
            println!("skipped: {name}: /dev/kvm: {error}");
            None
        }
    }
}

/// What guests said.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    gate: Option<Arc<Gate>>,
}

struct Ports(Arc<Mutex<Said>>);

impl Device for Ports {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(if offset == u64::from(ASK - TELL) { 0x5A } else { 0xFF });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut said = self.0.lock().unwrap();
        if offset == u64::from(END - TELL) {
            said.gate.as_ref().unwrap().stop(Outcome::Off);
        } else {
            said.bytes.extend_from_slice(data);
        }
    }
}

struct Register(Arc<Mutex<Said>>);

impl Device for Register {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip((0xA0u8..).skip(usize::try_from(offset).unwrap())) {
            *byte = value;
        }
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        self.0.lock().unwrap().bytes.extend_from_slice(data);
    }
}

/// One machine.
pub(crate) struct Rig {
    pub(crate) said: Arc<Mutex<Said>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) processors: Processors,
    pub(crate) vm: Arc<Vm>,
}

impl Rig {
    /// A machine around `memory`, with processors that `prepare` has seen and that stand at the gate.
    pub(crate) fn around(
        kvm: &Kvm,
        memory: Arc<Memory>,
        cpus: u8,
        prepare: impl FnOnce(&Memory, &Vm, &[Vcpu]),
    ) -> Self {
        let gate = Arc::new(Gate::default());
        let vm = Arc::new(Vm::new(kvm, Arc::clone(&memory), Arc::clone(&gate)).unwrap());
        let promise = Promise::new(kvm, Topology { cpus, threads_per_core: 1 }, Instructions::All).unwrap();
        let vcpus: Vec<Vcpu> = (0..cpus)
            .map(|id| {
                let vcpu = Vcpu::new(&vm, id).unwrap();
                promise.keep(&vcpu, id).unwrap();
                vcpu
            })
            .collect();
        prepare(&memory, &vm, &vcpus);
        let said = Arc::new(Mutex::new(Said { bytes: Vec::new(), gate: Some(Arc::clone(&gate)) }));
        let buses = Arc::new(Buses { pio: Default::default(), mmio: Default::default() });
        buses
            .pio
            .add(TELL.into()..u64::from(TELL) + 8, Arc::new(Mutex::new(Ports(Arc::clone(&said)))))
            .unwrap();
        let register = Arc::new(Mutex::new(Register(Arc::clone(&said))));
        buses.mmio.add(REGISTER..REGISTER + 0x1000, register).unwrap();
        let processors = Processors::start(Arc::clone(&gate), vcpus, &[], &buses).unwrap();
        Self { said, gate, memory, processors, vm }
    }

    /// A machine that has loaded `kernel`.
    pub(crate) fn boot(kvm: &Kvm, bytes: u64, cpus: u8, kernel: &[u8], initrd: Option<&[u8]>) -> Self {
        Self::around(kvm, Arc::new(Memory::new(bytes).unwrap()), cpus, |memory, _, vcpus| {
            let kernel = Source::new("kernel", sealed(kernel)).unwrap();
            let initrd = initrd.map(|bytes| Source::new("initial RAM disk", sealed(bytes)).unwrap());
            let image =
                Image { kernel: &kernel, initrd: initrd.as_ref(), command_line: "quiet", rsdp: 0xE_0000 };
            let (entry, _) = boot::load(memory, &image).unwrap();
            entry.apply(memory, &vcpus[0]).unwrap();
        })
    }

    /// Lets it run to its end.
    pub(crate) fn run(&self) -> Outcome {
        assert!(self.gate.open());
        wait("the guest to end", || self.gate.outcome().is_some());
        self.gate.close();
        self.gate.outcome().unwrap()
    }

    /// What was said.
    pub(crate) fn said(&self) -> Vec<u8> {
        self.said.lock().unwrap().bytes.clone()
    }

    /// Four bytes of guest memory.
    pub(crate) fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(address, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }
}

/// Waits until `done`, at most ten seconds.
pub(crate) fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
