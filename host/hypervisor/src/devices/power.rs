//! Power, reset and events, as ACPI tells the guest of them (ACPI 6.5 §4.8.3.7 sleep control and status, §5.6.9
//! generic event device).
//!
//! | offset | bytes | register |
//! |---|---|---|
//! | 0 | 1 | sleep control |
//! | 1 | 1 | sleep status; nothing ever wakes |
//! | 2 | 1 | reset: write [`RESET`] |
//! | 3 | 1 | events; reading takes them |
//! | 4 | 4 | slots that were filled; write ones to take them |
//! | 8 | 4 | slots to let go of; write ones to take them |
//! | 12 | 4 | eject: write ones |

use crate::{
    bus::Device,
    irq::{Platform, Power},
    layout::GED_GSI,
    pci::bus::PciBus,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The value that resets.
pub const RESET: u8 = 1;
/// S5, the only sleep state.
pub const S5: u8 = 5;
/// Sleep enable, and where the sleep type is.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// What the guest is told by the generic event device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A slot was filled or is to be emptied.
    Slots = 1,
    /// The power button was pressed.
    PowerButton = 2,
    /// The machine is another one than before, by its generation id.
    Generation = 4,
}

/// What the guest has not taken yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EventState {
    /// [`Event`]s.
    pub events: u8,
    /// Slots that were filled, a bit for each.
    pub filled: u32,
    /// Slots to let go of.
    pub leaving: u32,
}

/// Events from this side to the guest.
pub struct Events {
    state: Mutex<EventState>,
    platform: Arc<dyn Platform>,
}

impl Events {
    /// None yet.
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self { state: Mutex::default(), platform }
    }

    /// Tells the guest.
    pub fn raise(&self, event: Event) {
        self.change(|state| state.events |= event as u8);
    }

    /// Tells the guest that a slot was filled.
    pub fn filled(&self, slot: u8) {
        self.change(|state| {
            state.filled |= bit(slot);
            state.events |= Event::Slots as u8;
        });
    }

    /// Asks the guest to let go of a slot.
    pub fn leaving(&self, slot: u8) {
        self.change(|state| {
            state.leaving |= bit(slot);
            state.events |= Event::Slots as u8;
        });
    }

    /// What the guest has not taken yet.
    pub fn state(&self) -> EventState {
        *self.lock()
    }

    /// Goes on with what another process had.
    pub fn restore(&self, restored: EventState) {
        self.change(|state| *state = restored);
    }

    /// The interrupt follows the events by level, so that none is missed.
    fn change<T>(&self, change: impl FnOnce(&mut EventState) -> T) -> T {
        let mut state = self.lock();
        let before = state.events != 0;
        let result = change(&mut state);
        let after = state.events != 0;
        if before != after {
            self.platform.line(GED_GSI, after);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, EventState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit(slot: u8) -> u32 {
    1u32.checked_shl(u32::from(slot)).unwrap_or_default()
}

/// The register block.
pub struct PowerBlock {
    events: Arc<Events>,
    bus: Arc<PciBus>,
    platform: Arc<dyn Platform>,
}

impl PowerBlock {
    /// The registers of `events`, and of the slots of `bus`.
    pub const fn new(events: Arc<Events>, bus: Arc<PciBus>, platform: Arc<dyn Platform>) -> Self {
        Self { events, bus, platform }
    }

    fn eject(&self, slots: u32) {
        (0..32u8).filter(|slot| slots & bit(*slot) != 0).for_each(|slot| self.bus.eject(slot));
    }
}

impl Device for PowerBlock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (3, [byte]) => *byte = self.events.change(|state| std::mem::take(&mut state.events)),
            (4, data) if data.len() == 4 => data.copy_from_slice(&self.events.state().filled.to_le_bytes()),
            (8, data) if data.len() == 4 => data.copy_from_slice(&self.events.state().leaving.to_le_bytes()),
            (_, data) => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data), data) {
            (0, _, [value]) if value & SLEEP_ENABLE != 0 && value >> SLEEP_TYPE_SHIFT & 7 == S5 => {
                self.platform.power(Power::Off);
            }
            (2, _, [RESET]) => self.platform.power(Power::Reset),
            (4, Ok(slots), _) => self.events.change(|state| state.filled &= !u32::from_le_bytes(slots)),
            (8, Ok(slots), _) => self.events.change(|state| state.leaving &= !u32::from_le_bytes(slots)),
            (12, Ok(slots), _) => self.eject(u32::from_le_bytes(slots)),
            _ => {}
        }
    }
}
