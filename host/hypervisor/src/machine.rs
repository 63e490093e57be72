//! The machine without its processors: buses, devices, slots and tables. It runs as well without KVM.

use crate::{
    acpi,
    bus::{Bus, BusError},
    console::Output,
    devices::{
        power::{Event, EventState, Events, PowerBlock},
        rtc::Rtc,
        serial::Serial,
    },
    function::{Function, FunctionError, Site},
    irq::Platform,
    layout::{self, COM1, ECAM, MMIO32, PCI_CONFIG, POWER, RTC},
    memory::Memory,
    pci::bus::{Ecam, FrozenSlot, PciBus, Ports, SlotError},
    smbios::{self, Identity},
};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use vfio_user::Socket;
use wire::hypervisor::SlotStatistics;

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who the guest is told that it is.
    pub identity: Identity,
    /// The local APIC's id of each processor.
    pub apic_ids: Vec<u8>,
    /// Bits of a physical address (CPUID leaf 0x8000_0008).
    pub physical_bits: u8,
    /// The generation id: random, and new for every copy of a machine.
    pub generation: [u8; 16],
}

/// A machine as it is kept while it moves to another process. Processors, interrupt controllers and memory are kept
/// elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineState {
    serial: Vec<u8>,
    rtc: u8,
    pci_address: u32,
    events: EventState,
    slots: Vec<FrozenSlot>,
}

impl MachineState {
    /// How many functions go with it.
    pub const fn functions(&self) -> usize {
        self.slots.len()
    }
}

/// Why a machine could not be made, or does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Two devices on one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The card's function.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The state of another process is not understood.
    #[error("the machine's state does not fit")]
    State,
}

impl MachineError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bus(_) => "machine.bus",
            Self::Slot(error) => error.code(),
            Self::Function(error) => error.code(),
            Self::State => "machine.state",
        }
    }
}

/// A machine.
pub struct Machine {
    /// Port space.
    pub pio: Arc<Bus>,
    /// Memory-mapped space, outside of memory.
    pub mmio: Arc<Bus>,
    slots: Arc<PciBus>,
    ports: Arc<Mutex<Ports>>,
    serial: Arc<Mutex<Serial>>,
    rtc: Arc<Mutex<Rtc>>,
    events: Arc<Events>,
    site: Arc<Site>,
    memory: Arc<Memory>,
    tables: Vec<(u64, Vec<u8>)>,
}

impl Machine {
    /// A machine as after power on, with empty slots. The guest's console goes to `output`.
    pub fn new(
        platform: Arc<dyn Platform>,
        memory: Arc<Memory>,
        config: &Config,
        output: Box<dyn Output>,
    ) -> Result<Self, MachineError> {
        let serial = Serial::new(Arc::clone(&platform), output);
        Self::assemble(platform, memory, config, serial, 0)
    }

    /// Goes on with the machine of another process. `sockets` are those of [`Machine::freeze`]; a function whose card
    /// is gone meanwhile is missing, and the guest is told.
    pub fn resume(
        platform: Arc<dyn Platform>,
        memory: Arc<Memory>,
        config: &Config,
        output: Box<dyn Output>,
        state: &MachineState,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, MachineError> {
        let serial = Serial::restore(Arc::clone(&platform), output, &state.serial);
        let machine =
            Self::assemble(platform, memory, config, serial.ok_or(MachineError::State)?, state.rtc)?;
        lock(&machine.ports).set_address(state.pci_address);
        machine.events.restore(state.events);
        if sockets.len() != state.slots.len() {
            return Err(MachineError::State);
        }
        for (frozen, socket) in state.slots.iter().zip(sockets) {
            match Function::resume(socket, &frozen.function, &machine.site) {
                Ok((function, lifeline)) => machine.slots.resume(frozen, function, lifeline)?,
                Err(FunctionError::Card(_)) => machine.events.leaving(frozen.number),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(machine)
    }

    fn assemble(
        platform: Arc<dyn Platform>,
        memory: Arc<Memory>,
        config: &Config,
        serial: Serial,
        rtc: u8,
    ) -> Result<Self, MachineError> {
        let (pio, mmio, slots) = (Arc::new(Bus::new()), Arc::new(Bus::new()), Arc::new(PciBus::default()));
        let events = Arc::new(Events::new(Arc::clone(&platform)));
        let (serial, rtc) = (Arc::new(Mutex::new(serial)), Arc::new(Mutex::new(Rtc::new(rtc))));
        let ports = Arc::new(Mutex::new(Ports::new(Arc::clone(&slots))));
        let power = PowerBlock::new(Arc::clone(&events), Arc::clone(&slots), Arc::clone(&platform));
        pio.add(COM1, serial.clone())?;
        pio.add(RTC, rtc.clone())?;
        pio.add(POWER, Arc::new(Mutex::new(power)))?;
        pio.add(PCI_CONFIG, ports.clone())?;
        mmio.add(ECAM, Arc::new(Mutex::new(Ecam(Arc::clone(&slots)))))?;
        platform.generation(config.generation);
        let mmio64 = layout::mmio64(config.physical_bits);
        let facts = acpi::Facts { apic_ids: config.apic_ids.clone(), mmio64: mmio64.clone() };
        let mut tables = acpi::tables(&facts);
        tables.extend(smbios::tables(&config.identity));
        let site = Arc::new(Site { platform, mmio: Arc::downgrade(&mmio), windows: [MMIO32, mmio64] });
        Ok(Self { pio, mmio, slots, ports, serial, rtc, events, site, memory, tables })
    }

    /// What another process needs to go on with this machine, and the sockets of its functions. No processor may
    /// run. From here on the cards hold interrupts back, until [`Machine::thaw`] or until the other process has them.
    /// Interrupts that came before are with the interrupt controller, whose state is to be taken after this.
    pub fn freeze(&self) -> (MachineState, Vec<Arc<Socket>>) {
        let (slots, sockets) = self.slots.freeze();
        let state = MachineState {
            serial: lock(&self.serial).state(),
            rtc: lock(&self.rtc).index(),
            pci_address: lock(&self.ports).address(),
            events: self.events.state(),
            slots,
        };
        (state, sockets)
    }

    /// Goes on here after [`Machine::freeze`].
    pub fn thaw(&self) {
        self.slots.thaw();
    }

    /// ACPI (the RSDP is at [`layout::RSDP`]) and SMBIOS: address and bytes of each table, all in
    /// [`layout::TABLES`], for whoever loads the guest.
    pub fn tables(&self) -> &[(u64, Vec<u8>)] {
        &self.tables
    }

    /// Puts the function of a card, behind a connected vfio-user socket, into a slot, gives it the guest's memory
    /// and tells the guest. Waits for the card; the guest runs on.
    pub fn attach(&self, slot: u8, socket: OwnedFd) -> Result<(), MachineError> {
        self.slots.check_free(slot)?;
        let (function, lifeline) = Function::new(socket, &self.memory, &self.site)?;
        self.slots.insert(slot, function, lifeline)?;
        self.events.filled(slot);
        Ok(())
    }

    /// The same with a function of the host's hardware, behind the descriptors of its VFIO container and its own.
    pub fn pass_through(&self, slot: u8, descriptors: [OwnedFd; 2]) -> Result<(), MachineError> {
        self.slots.check_free(slot)?;
        let (function, lifeline) = Function::pass_through(descriptors, &self.memory, &self.site)?;
        self.slots.insert(slot, function, lifeline)?;
        self.events.filled(slot);
        Ok(())
    }

    /// It can go to another process: it has no function of the host's hardware.
    pub fn can_move(&self) -> bool {
        self.slots.can_move()
    }

    /// Asks the guest to let go of a slot; it leaves [`Machine::slots`] when the guest has done so. With `force` the
    /// function is gone on return, whatever the guest or the card do, and the guest is told after the fact.
    pub fn detach(&self, slot: u8, force: bool) -> Result<(), MachineError> {
        if force {
            self.slots.pull(slot)?;
        } else {
            self.slots.ask(slot)?;
        }
        self.events.leaving(slot);
        Ok(())
    }

    /// Looks for cards that are gone, takes away what was theirs and tells the guest. To be called now and then.
    pub fn find_lost(&self) -> Vec<u8> {
        let lost = self.slots.find_lost();
        lost.iter().for_each(|slot| self.events.leaving(*slot));
        lost
    }

    /// The slots in use.
    pub fn slots(&self) -> Vec<SlotStatistics> {
        self.slots.states()
    }

    /// Presses the power button: an orderly guest turns itself off.
    pub fn press_power_button(&self) {
        self.events.raise(Event::PowerButton);
    }

    /// This machine is a copy, or was set back: gives it a new generation id and tells the guest.
    pub fn set_generation(&self, id: [u8; 16]) {
        self.site.platform.generation(id);
        self.events.raise(Event::Generation);
    }

    /// What the tenant types; says how many bytes the guest had room for.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        lock(&self.serial).input(bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
