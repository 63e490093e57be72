//! Configuration cycles on bus 0: type 1 by ports, ECAM by memory (PCI Express 4.0 §7.2.2), and the slots.

use crate::{
    bus::Device,
    function::{Function, FunctionState, Lifeline},
    layout,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_user::Socket;
use wire::hypervisor::{SlotState, SlotStatistics};

/// Slots of the bus, with the host bridge's.
const SLOTS: usize = 32;
/// Bytes of one function's configuration space.
const SPACE: u64 = 4096;
/// The host bridge as EC2 guests see it: an Intel 440FX.
const BRIDGE: [u8; 12] = [0x86, 0x80, 0x37, 0x12, 0, 0, 0, 0, 2, 0, 0, 6];

/// Why a slot could not be filled or emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// No such slot.
    #[error("there is no slot {0}: name one of 1 to 31")]
    Number(u8),
    /// A function is in it.
    #[error("slot {0} is taken: detach its function first")]
    Taken(u8),
    /// No function is in it.
    #[error("slot {0} is empty")]
    Empty(u8),
}

impl SlotError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Number(_) => "slot.unknown",
            Self::Taken(_) => "slot.taken",
            Self::Empty(_) => "slot.empty",
        }
    }
}

/// A slot as it is kept while a machine moves to another process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenSlot {
    /// Its number.
    pub number: u8,
    /// How it is used.
    pub state: SlotState,
    /// What is in it.
    pub function: FunctionState,
}

struct Slot {
    function: Arc<Mutex<Function>>,
    /// Ends all waiting for the card without waiting for the function.
    lifeline: Lifeline,
    state: SlotState,
}

/// The bus.
#[derive(Default)]
pub struct PciBus(Mutex<[Option<Slot>; SLOTS]>);

impl PciBus {
    /// Whether a slot can take a function.
    pub fn check_free(&self, slot: u8) -> Result<(), SlotError> {
        match self.slots().get(usize::from(slot)) {
            Some(None) if layout::SLOTS.contains(&slot) => Ok(()),
            Some(Some(_)) => Err(SlotError::Taken(slot)),
            _ => Err(SlotError::Number(slot)),
        }
    }

    /// Puts a function into a slot.
    pub fn insert(
        &self,
        slot: u8,
        function: Arc<Mutex<Function>>,
        lifeline: Lifeline,
    ) -> Result<(), SlotError> {
        self.check_free(slot)?;
        if let Some(place @ None) = self.slots().get_mut(usize::from(slot)) {
            *place = Some(Slot { function, lifeline, state: SlotState::Present });
            return Ok(());
        }
        Err(SlotError::Taken(slot))
    }

    /// Notes that the guest is asked to let go of a slot.
    pub fn ask(&self, slot: u8) -> Result<(), SlotError> {
        match self.slots().get_mut(usize::from(slot)) {
            Some(Some(slot)) => {
                if slot.state == SlotState::Present {
                    slot.state = SlotState::Leaving;
                }
                Ok(())
            }
            _ => Err(SlotError::Empty(slot)),
        }
    }

    /// Pulls a function out without asking anybody, even where a processor waits for its card.
    pub fn pull(&self, slot: u8) -> Result<(), SlotError> {
        let taken = self.slots().get_mut(usize::from(slot)).and_then(Option::take);
        let taken = taken.ok_or(SlotError::Empty(slot))?;
        taken.lifeline.cut();
        lock(&taken.function).unplug(false);
        self.settle();
        Ok(())
    }

    /// The guest lets go of a slot. Only what was asked back, or is lost, leaves.
    pub fn eject(&self, slot: u8) {
        let mut slots = self.slots();
        let Some(place) = slots.get_mut(usize::from(slot)) else { return };
        let Some(taken) = place.take_if(|slot| slot.state != SlotState::Present) else { return };
        drop(slots);
        lock(&taken.function).unplug(true);
        self.settle();
    }

    /// Looks for cards that have closed their socket; takes their functions away and says of which slots.
    pub fn find_lost(&self) -> Vec<u8> {
        let mut lost = Vec::new();
        for (number, place) in (0u8..).zip(self.slots().iter_mut()) {
            let Some(slot) = place.as_mut().filter(|slot| slot.state != SlotState::Lost) else { continue };
            if slot.lifeline.is_cut() {
                slot.state = SlotState::Lost;
                lost.push((number, Arc::clone(&slot.function)));
            }
        }
        for (_, function) in &lost {
            lock(function).unplug(false);
        }
        if !lost.is_empty() {
            self.settle();
        }
        lost.into_iter().map(|(number, _)| number).collect()
    }

    /// The slots in use.
    pub fn states(&self) -> Vec<SlotStatistics> {
        let state =
            |(slot, used): (u8, &Option<Slot>)| Some(SlotStatistics { slot, state: used.as_ref()?.state });
        (0u8..).zip(self.slots().iter()).filter_map(state).collect()
    }

    /// Every function can go on in another process.
    pub fn can_move(&self) -> bool {
        self.functions().iter().all(|function| lock(function).can_move())
    }

    /// Every function that is there, for another process to go on with, and their sockets in the same order.
    pub fn freeze(&self) -> (Vec<FrozenSlot>, Vec<Arc<Socket>>) {
        let slot = |(number, slot): (u8, &Option<Slot>)| {
            slot.as_ref().map(|slot| (number, slot.state, Arc::clone(&slot.function)))
        };
        let slots: Vec<_> = (0u8..).zip(self.slots().iter()).filter_map(slot).collect();
        let frozen = slots.into_iter().filter_map(|(number, state, function)| {
            let (function, socket) = lock(&function).freeze()?;
            Some((FrozenSlot { number, state, function }, socket))
        });
        frozen.unzip()
    }

    /// Goes on here after [`PciBus::freeze`].
    pub fn thaw(&self) {
        let functions = self.functions();
        functions.iter().for_each(|function| lock(function).thaw());
    }

    /// Puts a function of another process into its slot.
    pub fn resume(
        &self,
        frozen: &FrozenSlot,
        function: Arc<Mutex<Function>>,
        lifeline: Lifeline,
    ) -> Result<(), SlotError> {
        self.insert(frozen.number, function, lifeline)?;
        if let Some(Some(slot)) = self.slots().get_mut(usize::from(frozen.number)) {
            slot.state = frozen.state;
        }
        Ok(())
    }

    fn function(&self, slot: u64) -> Option<Arc<Mutex<Function>>> {
        let slot = usize::try_from(slot).ok()?;
        self.slots().get(slot)?.as_ref().map(|slot| Arc::clone(&slot.function))
    }

    /// A BAR has left its place: another may have waited for it.
    fn settle(&self) {
        let functions = self.functions();
        functions.iter().for_each(|function| lock(function).settle());
    }

    fn functions(&self) -> Vec<Arc<Mutex<Function>>> {
        self.slots().iter().flatten().map(|slot| Arc::clone(&slot.function)).collect()
    }

    fn slots(&self) -> MutexGuard<'_, [Option<Slot>; SLOTS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A configuration read at an offset into the bus's ECAM. Words that are not aligned are all ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let Some((device, register)) = decode(offset, data.len()) else { return };
        if device == 0 {
            for (byte, at) in data.iter_mut().zip(usize::from(register)..) {
                *byte = BRIDGE.get(at).copied().unwrap_or_default();
            }
        } else if let Some(function) = self.function(device) {
            lock(&function).read_config(register, data);
        }
    }

    /// A configuration write.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Some((device, register)) = decode(offset, data.len()) else { return };
        let Some(function) = self.function(device) else { return };
        let moved = lock(&function).write_config(register, data);
        if moved {
            self.settle();
        }
    }
}

/// Device and register; `None` for other functions than 0 and for words that are not aligned.
fn decode(offset: u64, len: usize) -> Option<(u64, u16)> {
    let aligned = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len as u64);
    let (function, register) = (offset / SPACE, u16::try_from(offset % SPACE).ok()?);
    (aligned && function.is_multiple_of(8) && function < SLOTS as u64 * 8).then_some((function / 8, register))
}

fn lock(function: &Mutex<Function>) -> MutexGuard<'_, Function> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory-mapped way to configuration space.
pub struct Ecam(pub Arc<PciBus>);

impl Device for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// The way by ports: an address at 0xCF8, its data at 0xCFC (PCI Local Bus 3.0 §3.2.2.3.2).
pub struct Ports {
    bus: Arc<PciBus>,
    address: u32,
}

impl Ports {
    /// With address 0, disabled.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: 0 }
    }

    /// The address register.
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// Sets the address register, as the guest does.
    pub const fn set_address(&mut self, address: u32) {
        self.address = address & 0x80FF_FFFC;
    }

    /// The place in ECAM that the data port shows; buses above 0 are empty.
    fn target(&self, port: u64) -> Option<u64> {
        let (enabled, bus) = (self.address >> 31 == 1, self.address >> 16 & 0xFF);
        let function = u64::from(self.address >> 8 & 0xFF);
        let register = u64::from(self.address & 0xFC) + port.checked_sub(4)?;
        (enabled && bus == 0).then_some(function * SPACE + register)
    }
}

impl Device for Ports {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *data = self.address.to_le_bytes();
        } else if let Some(target) = self.target(offset) {
            self.bus.read(target, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(address)) = (offset, <[u8; 4]>::try_from(data)) {
            self.set_address(u32::from_le_bytes(address));
        } else if let Some(target) = self.target(offset) {
            self.bus.write(target, data);
        }
    }
}
