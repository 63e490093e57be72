//! A paused machine goes to another process: header first, then the state piece by piece, then the functions'
//! sockets; memory stays where it is and its file goes along. The receiver takes nothing on trust but the socket that
//! the controller gave it: versions, lengths and contents are checked.

mod processor;

use crate::{
    console::{Console, ConsoleState},
    instance::{Instance, InstanceError, Parts, check, random},
    irq::Platform,
    machine::{Config, Machine, MachineState},
    memory::{Memory, MemoryError},
    vm::{Tried, Vm},
};
use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data,
    kvm_irqchip, kvm_pit_state2,
};
use processor::ProcessorState;
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, PoisonError},
};
use vfio_user::Socket;
use wire::{
    Link, LinkError, MAX_FDS,
    hypervisor::{Create, Parcel},
};

/// The version that this process writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// Most bytes of state: 254 processors fit twice.
const MAX_STATE: u64 = 16 << 20;
/// Bytes of state in one parcel.
const PIECE: usize = 32 << 10;

/// Why a machine did not move.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The processors run.
    #[error("pause the machine first")]
    Running,
    /// It has ended, or has moved already.
    #[error("the machine has come to its end or has moved: there is nothing to take out")]
    Ended,
    /// A copy of a machine cannot share functions, and the host's hardware cannot go on elsewhere.
    #[error("detach the machine's functions before it is copied, and the host's hardware before it moves")]
    Functions,
    /// The other process speaks another version.
    #[error("the state has version {0}, this process knows {VERSION}: use a process of the other's release")]
    Version(u32),
    /// The other process said something else than was due.
    #[error("the other process sent no state of a machine")]
    Malformed,
    /// The socket between the processes.
    #[error("the socket to the other process: {0}")]
    Link(#[from] LinkError),
}

impl StateError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Running => "state.running",
            Self::Ended => "state.ended",
            Self::Functions => "state.functions",
            Self::Version(_) => "state.version",
            Self::Malformed => "state.malformed",
            Self::Link(_) => "state.link",
        }
    }
}

/// Everything but memory and sockets.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    create: Create,
    config: Config,
    processors: Vec<ProcessorState>,
    chips: Chips,
    machine: MachineState,
    console: ConsoleState,
}

/// What the kernel keeps for the whole machine.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chips {
    interrupts: [kvm_irqchip; 3],
    timer: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl Chips {
    fn take(vm: &Vm) -> Result<Self, InstanceError> {
        let mut interrupts = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut interrupts {
            vm.fd().get_irqchip(chip).tried("read an interrupt chip")?;
        }
        let timer = vm.fd().get_pit2().tried("read the timer")?;
        Ok(Self { interrupts, timer, clock: vm.fd().get_clock().tried("read the clock")? })
    }

    /// The guest's clock has gone on meanwhile, where the kernel can tell for how long.
    fn put(&self, vm: &Vm) -> Result<(), InstanceError> {
        for chip in &self.interrupts {
            vm.fd().set_irqchip(chip).tried("set an interrupt chip")?;
        }
        vm.fd().set_pit2(&self.timer).tried("set the timer")?;
        let clock = kvm_clock_data { flags: self.clock.flags & KVM_CLOCK_REALTIME, ..self.clock };
        Ok(vm.fd().set_clock(&clock).tried("set the clock")?)
    }
}

/// Sends a paused machine to the process at the other end of `socket`. With `copy` it stays here as well and the other
/// process copies its memory; otherwise it has left when this returns, unless it fails.
pub fn send(instance: &Instance, socket: OwnedFd, copy: bool) -> Result<(), InstanceError> {
    if instance.is_running() {
        return Err(StateError::Running.into());
    }
    if instance.has_ended() {
        return Err(StateError::Ended.into());
    }
    let machine = instance.machine();
    if copy && !machine.slots().is_empty() || !machine.can_move() {
        return Err(StateError::Functions.into());
    }
    let (state, sockets) = machine.freeze();
    let link = Link::new(socket);
    let sent =
        saved(instance, &state).and_then(|saved| deliver(&link, instance.memory(), &saved, &sockets, copy));
    if copy || sent.is_err() {
        machine.thaw();
    }
    sent
}

fn saved(instance: &Instance, machine: &MachineState) -> Result<Vec<u8>, InstanceError> {
    let processors = instance.vcpus().iter().map(|vcpu| {
        let vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        ProcessorState::take(&vcpu, instance.registers())
    });
    let saved = Saved {
        create: instance.create().clone(),
        config: instance.config().clone(),
        processors: processors.collect::<Result<_, _>>()?,
        chips: Chips::take(instance.vm())?,
        machine: machine.clone(),
        console: instance.console().state(),
    };
    let mut bytes = Vec::new();
    ciborium::into_writer(&saved, &mut bytes).map_err(|_| StateError::Malformed)?;
    Ok(bytes)
}

fn deliver(
    link: &Link<Parcel, Parcel>,
    memory: &Memory,
    saved: &[u8],
    sockets: &[Arc<Socket>],
    copy: bool,
) -> Result<(), InstanceError> {
    let send = |parcel: &Parcel, fds: &[BorrowedFd<'_>]| link.send(parcel, fds).map_err(StateError::from);
    let header =
        Parcel::Header { version: VERSION, state: saved.len() as u64, functions: sockets.len() as u64, copy };
    send(&header, &[memory.file()])?;
    for piece in saved.chunks(PIECE) {
        send(&Parcel::State { bytes: piece.to_vec() }, &[])?;
    }
    for some in sockets.chunks(MAX_FDS) {
        send(&Parcel::Functions, &some.iter().map(|socket| socket.as_fd()).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Takes over the machine that the process at the other end of `socket` sends, paused. `device` is `/dev/kvm`. Waits
/// for the other process.
pub fn receive(device: OwnedFd, socket: OwnedFd) -> Result<Instance, InstanceError> {
    let link: Link<Parcel, Parcel> = Link::new(socket);
    let (header, mut fds) = link.receive().map_err(StateError::from)?;
    let Parcel::Header { version, state, functions, copy } = header else {
        return Err(StateError::Malformed.into());
    };
    if version != VERSION {
        return Err(StateError::Version(version).into());
    }
    let (Some(file), true) = (fds.pop(), fds.is_empty()) else { return Err(StateError::Malformed.into()) };
    let mut saved = read(&link, state)?;
    let mut sockets = Vec::new();
    while (sockets.len() as u64) < functions {
        match link.receive().map_err(StateError::from)? {
            (Parcel::Functions, fds) if !fds.is_empty() => sockets.extend(fds),
            _ => return Err(StateError::Malformed.into()),
        }
    }
    let memory = if copy { Memory::copy_of(&file)? } else { Memory::adopt(file)? };
    if memory.bytes() != saved.create.memory_mib.saturating_mul(1 << 20) {
        return Err(MemoryError::Size(memory.bytes()).into());
    }
    if copy {
        saved.config.generation = random()?;
    }
    rebuild(device, saved, memory, sockets, copy)
}

/// Goes on with what `bytes` say, as far as that takes no KVM: a machine on `platform` around `memory`, with as many of
/// `sockets` as there are functions. For tests.
#[doc(hidden)]
pub fn rehearse(
    bytes: &[u8],
    platform: Arc<dyn Platform>,
    memory: Arc<Memory>,
    sockets: impl FnOnce(usize) -> Vec<OwnedFd>,
) -> Result<Machine, InstanceError> {
    let saved: Saved = ciborium::from_reader(bytes).map_err(|_| StateError::Malformed)?;
    check(&saved.create)?;
    let Saved { create, config, machine, console, .. } = saved;
    let console = Console::restore(create.instance, create.console_key, console)?;
    let sockets = sockets(machine.functions());
    Ok(Machine::resume(platform, memory, &config, Box::new(console), &machine, sockets)?)
}

fn read(link: &Link<Parcel, Parcel>, len: u64) -> Result<Saved, InstanceError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        match link.receive().map_err(StateError::from)? {
            (Parcel::State { bytes: piece }, _) if !piece.is_empty() => bytes.extend(piece),
            _ => return Err(StateError::Malformed.into()),
        }
        if bytes.len() as u64 > len.min(MAX_STATE) {
            return Err(StateError::Malformed.into());
        }
    }
    ciborium::from_reader(bytes.as_slice()).map_err(|_| StateError::Malformed.into())
}

/// The processors' and chips' state first: after that nothing overwrites the interrupts that functions raise.
fn rebuild(
    device: OwnedFd,
    saved: Saved,
    memory: Memory,
    sockets: Vec<OwnedFd>,
    copy: bool,
) -> Result<Instance, InstanceError> {
    check(&saved.create)?;
    let Saved { create, config, processors, chips, machine, console } = saved;
    let console = Console::restore(create.instance.clone(), create.console_key.clone(), console)?;
    let parts = Parts::new(device, &create, memory)?;
    if processors.len() != parts.vcpus.len() {
        return Err(StateError::Malformed.into());
    }
    for (state, vcpu) in processors.iter().zip(&parts.vcpus) {
        state.put(vcpu)?;
    }
    chips.put(&parts.vm)?;
    let (platform, memory) = (Arc::clone(&parts.vm), Arc::clone(&parts.memory));
    let output = Box::new(console.clone());
    let machine = Machine::resume(platform, memory, &config, output, &machine, sockets)?;
    if copy {
        machine.set_generation(config.generation);
    }
    Instance::start(parts, create, config, machine, console)
}
