//! One instance: memory, the machine in the kernel, its devices and its processors, put together.

use crate::{
    boot::{self, BootError, Image, Source},
    console::{Console, ConsoleError},
    cpu::{Promise, Topology},
    irq::Platform,
    layout,
    machine::{Config, Machine, MachineError},
    memory::{Memory, MemoryError},
    smbios::Identity,
    state::StateError,
    vcpu::{Buses, Gate, Outcome, Processors, Vcpu},
    vm::{Vm, VmError, kvm},
};
use guest_memory::AccessError;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use sha2::{Digest, Sha256};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};
use wire::hypervisor::{Create, Measurement, State, Statistics};

/// Longest name of an instance type in bytes.
const LONGEST_TYPE: usize = 32;

/// Why there is no instance, or it does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Parameters(&'static str),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The machine in the kernel.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The kernel to start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Devices and slots.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Tables do not fit into memory.
    #[error("the machine's tables do not fit into its memory: {0}")]
    Tables(#[from] AccessError),
    /// The way from or to another process.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(Errno),
    /// The machine has come to its end.
    #[error("the machine has come to its end: start a fresh process")]
    Ended,
}

impl InstanceError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Parameters(_) => "instance.parameters",
            Self::Memory(MemoryError::Size(_)) => "instance.memory",
            Self::Memory(_) | Self::Vm(_) | Self::Tables(_) | Self::Random(_) => "instance.system",
            Self::Boot(error) => error.code(),
            Self::Machine(error) => error.code(),
            Self::Console(error) => error.code(),
            Self::State(error) => error.code(),
            Self::Ended => "instance.ended",
        }
    }
}

/// What an instance is made of, before it has devices.
pub(crate) struct Parts {
    pub(crate) vm: Arc<Vm>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) vcpus: Vec<Vcpu>,
    physical_bits: u8,
    registers: Vec<u32>,
}

/// One instance.
pub struct Instance {
    processors: Processors,
    machine: Machine,
    console: Console,
    gate: Arc<Gate>,
    vm: Arc<Vm>,
    memory: Arc<Memory>,
    registers: Vec<u32>,
    create: Create,
    config: Config,
}

impl Instance {
    /// Builds an instance, paused at its first instruction. `device` is `/dev/kvm`.
    pub fn new(
        device: OwnedFd,
        create: Create,
        kernel: &Source,
        initrd: Option<&Source>,
    ) -> Result<(Self, Measurement), InstanceError> {
        check(&create)?;
        let bytes = create.memory_mib.saturating_mul(1 << 20);
        let console = Console::new(create.instance.clone(), create.console_key.clone())?;
        let memory = if create.reserved { Memory::reserved(bytes) } else { Memory::new(bytes) };
        let parts = Parts::new(device, &create, memory?)?;
        let (config, memory) = (config(&create, &parts)?, &parts.memory);
        let platform: Arc<dyn Platform> = Arc::<Vm>::clone(&parts.vm);
        let machine = Machine::new(platform, Arc::clone(memory), &config, Box::new(console.clone()))?;
        for (address, table) in machine.tables() {
            memory.write(*address, table)?;
        }
        let image = Image { kernel, initrd, command_line: &create.command_line, rsdp: layout::RSDP };
        let (entry, measurement) = boot::load(memory, &image)?;
        if let Some(first) = parts.vcpus.first() {
            entry.apply(memory, first)?;
        }
        Ok((Self::start(parts, create, config, machine, console)?, measurement))
    }

    /// Starts the processors' threads; all stand at the gate.
    pub(crate) fn start(
        parts: Parts,
        create: Create,
        config: Config,
        machine: Machine,
        console: Console,
    ) -> Result<Self, InstanceError> {
        let Parts { vm, gate, memory, vcpus, registers, .. } = parts;
        let buses = Arc::new(Buses { pio: Arc::clone(&machine.pio), mmio: Arc::clone(&machine.mmio) });
        let processors = Processors::start(Arc::clone(&gate), vcpus, &create.pins, &buses)?;
        Ok(Self { processors, machine, console, gate, vm, memory, registers, create, config })
    }

    /// Lets the processors run.
    pub fn resume(&self) -> Result<(), InstanceError> {
        if self.gate.open() { Ok(()) } else { Err(InstanceError::Ended) }
    }

    /// Returns when all processors stand still.
    pub fn pause(&self) {
        self.gate.close();
    }

    /// The devices.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The tenant's console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// What is to be done now and then: cards that are gone, and what the tenant typed. True if it should be done
    /// again soon.
    pub fn tend(&self) -> bool {
        self.machine.find_lost();
        self.console.feed(|bytes| self.machine.console_input(bytes))
    }

    /// Numbers.
    pub fn statistics(&self) -> Statistics {
        let outcome = self.gate.outcome();
        let state = match outcome {
            Some(Outcome::Off) => State::Off,
            Some(Outcome::Reset) => State::Reset,
            Some(Outcome::Failed(_)) => State::Failed,
            None if self.is_running() => State::Running,
            None => State::Paused,
        };
        let failed = match outcome {
            Some(Outcome::Failed(reason)) => Some(reason),
            _ => None,
        };
        let cpus = self.processors.exits().iter().map(|exits| exits.read()).collect();
        Statistics { state, failed, cpus, slots: self.machine.slots() }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.gate.is_open()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.gate.outcome().is_some()
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    pub(crate) fn vcpus(&self) -> &[Arc<Mutex<Vcpu>>] {
        self.processors.vcpus()
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The model-specific registers that are a processor's state.
    pub(crate) fn registers(&self) -> &[u32] {
        &self.registers
    }

    pub(crate) fn create(&self) -> &Create {
        &self.create
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl Parts {
    /// A machine in the kernel around `memory`, with processors as after power on.
    pub(crate) fn new(device: OwnedFd, create: &Create, memory: Memory) -> Result<Self, InstanceError> {
        let kvm = kvm(device)?;
        let topology = Topology { cpus: create.cpus, threads_per_core: create.threads_per_core };
        let promise = Promise::new(&kvm, topology, create.instructions)?;
        let physical_bits = promise.physical_bits();
        let (memory, gate) = (Arc::new(memory), Arc::new(Gate::default()));
        let end = memory.regions().iter().map(|region| region.guest + region.len).max();
        if end > Some(layout::mmio64(physical_bits).start) {
            return Err(InstanceError::Parameters("this processor does not address so much memory"));
        }
        let vm = Arc::new(Vm::new(&kvm, Arc::clone(&memory), Arc::clone(&gate))?);
        let vcpus = (0..create.cpus).map(|id| {
            let vcpu = Vcpu::new(&vm, id)?;
            promise.keep(&vcpu, id)?;
            Ok(vcpu)
        });
        let vcpus = vcpus.collect::<Result<_, VmError>>()?;
        Ok(Self { vm, gate, memory, vcpus, physical_bits, registers: promise.registers().to_vec() })
    }
}

fn config(create: &Create, parts: &Parts) -> Result<Config, InstanceError> {
    Ok(Config {
        identity: Identity {
            instance: create.instance.to_string(),
            kind: create.instance_type.clone(),
            uuid: uuid(create.instance.as_str()),
            memory: parts.memory.bytes(),
            processors: create.cpus,
        },
        apic_ids: (0..create.cpus).collect(),
        physical_bits: parts.physical_bits,
        generation: random()?,
    })
}

/// Refuses parameters that make no sense.
pub(crate) fn check(create: &Create) -> Result<(), InstanceError> {
    let topology = Topology { cpus: create.cpus, threads_per_core: create.threads_per_core };
    let kind = create.instance_type.as_bytes();
    if !topology.is_sound() || create.cpus == u8::MAX {
        return Err(InstanceError::Parameters(
            "ask for 1 to 254 processors, and 1 or 2 threads per core that divide them",
        ));
    }
    if !create.pins.is_empty() && create.pins.len() != usize::from(create.cpus) {
        return Err(InstanceError::Parameters("name one host processor for each virtual one, or none"));
    }
    if !(1..=LONGEST_TYPE).contains(&kind.len()) || !kind.iter().all(u8::is_ascii_graphic) {
        return Err(InstanceError::Parameters("the instance type is 1 to 32 printable ASCII characters"));
    }
    Ok(())
}

/// The machine's UUID: begins with `ec2`, by which guests know where they are; the rest follows from the instance.
fn uuid(instance: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(instance.as_bytes()).into();
    let [_, second, ..] = digest;
    let mut uuid = [0; 16];
    for (to, from) in
        uuid.iter_mut().zip([0xEC, 0x20 | second & 0xF].into_iter().chain(digest.into_iter().skip(2)))
    {
        *to = from;
    }
    uuid
}

/// A generation id.
pub(crate) fn random() -> Result<[u8; 16], InstanceError> {
    let mut bytes = [0; 16];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(16) => Ok(bytes),
        Ok(_) => Err(InstanceError::Random(Errno::IO)),
        Err(error) => Err(InstanceError::Random(error)),
    }
}
