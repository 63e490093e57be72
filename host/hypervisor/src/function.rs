//! A card's PCI function behind a slot, over a connected vfio-user socket.
//!
//! The guest's accesses to configuration space and BARs are messages to the card, except for what decides over the
//! guest's own machine: BARs, MSI-X and the capability list are kept here. Where the card offers it, parts of a BAR
//! are shared memory and writes are eventfds, and then nobody but the card sees them.
//!
//! The card may lie, stop or vanish at any time. From then on the function answers as an empty slot does, with all
//! ones; nothing of it stays mapped or bound.

mod learn;
mod moving;
mod place;

use crate::{
    bus::Bus,
    irq::Platform,
    memory::Memory,
    pci::{
        Unfit,
        bar::{self, Bars},
        config::{self, Header},
        msix::{Change, Msix, Part},
    },
};
use guest_memory::DmaMap;
use learn::{be_patient, region};
pub use moving::FunctionState;
use place::Window;
use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
};
use std::{
    ops::Range,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use vfio_user::{
    Client, ClientError,
    pci::{CONFIG, MSIX},
};

/// How long a card may take for one answer. A reset or an unmap waits for what is in flight with its storage. The
/// controller can end the wait at any time by a detach with force.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Initiate Function Level Reset, in the high byte of device control.
const FLR: u8 = 0x80;

/// Why a card's function was not taken, or is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// The card.
    #[error("the card's function: {0}")]
    Card(#[from] ClientError),
    /// The function is none that a guest can have.
    #[error("the card's function does not fit: {0}")]
    Unfit(#[from] Unfit),
    /// The system has no descriptor left.
    #[error("the system refused a descriptor: {0}")]
    System(#[from] Errno),
}

impl FunctionError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Card(ClientError::Closed | ClientError::Io(_)) => "function.gone",
            Self::Card(ClientError::Refused(_)) => "function.refused",
            Self::Card(ClientError::Protocol(_)) => "function.protocol",
            Self::Unfit(_) => "function.unfit",
            Self::System(_) => "function.system",
        }
    }
}

/// Where functions appear.
pub struct Site {
    /// Interrupts, doorbells, shared memory.
    pub platform: Arc<dyn Platform>,
    /// The memory-mapped space that BARs decode. It leads to the slots and so to the functions.
    pub mmio: Weak<Bus>,
    /// Where in it BARs may be.
    pub windows: [Range<u64>; 2],
}

/// One function.
pub struct Function {
    card: Option<Client>,
    resettable: bool,
    header: Header,
    /// The guest has memory space on.
    decodes: bool,
    bars: Bars,
    windows: Vec<Window>,
    msix: Option<Msix>,
    site: Arc<Site>,
    me: Weak<Mutex<Self>>,
}

impl Function {
    /// Resets the function, gives it the guest's memory, and learns what it is.
    pub fn new(
        socket: OwnedFd,
        memory: &Memory,
        site: &Arc<Site>,
    ) -> Result<Arc<Mutex<Self>>, FunctionError> {
        be_patient(&socket)?;
        let mut card = Client::new(socket)?;
        if card.info()?.resettable {
            card.reset()?;
        }
        for region in memory.regions() {
            let map = DmaMap {
                iova: region.guest,
                len: region.len,
                offset: region.offset,
                readable: true,
                writable: true,
            };
            card.dma_map(map, Some(memory.file()))?;
        }
        Self::learn(card, site)
    }

    fn give_eventfds(&mut self) {
        let (Some(msix), Some(card)) = (&self.msix, &mut self.card) else { return };
        if msix.enabled() {
            let given = card.set_eventfds(MSIX, 0, &msix.eventfds());
            self.judge(given);
        }
    }

    /// The card is there.
    pub const fn is_alive(&self) -> bool {
        self.card.is_some()
    }

    /// The guest reads configuration space: an aligned word of 1, 2 or 4 bytes.
    pub fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if self.with_card(|card| card.read(CONFIG, u64::from(offset), data)).is_none() {
            return data.fill(0xFF);
        }
        self.header.cover(offset, data);
        let mut put = |at: u16, bytes: &[u8]| {
            for (at, value) in (at..).zip(bytes) {
                if let Some(byte) = at.checked_sub(offset).and_then(|at| data.get_mut(usize::from(at))) {
                    *byte = *value;
                }
            }
        };
        put(config::ROM, &[0; 4]);
        for (at, register) in (config::BARS..).step_by(4).zip(0..bar::COUNT) {
            put(at, &self.bars.read(register).to_le_bytes());
        }
        if let Some(msix) = &self.msix {
            put(msix.capability().at + 2, &msix.control());
        }
    }

    /// The guest writes configuration space: an aligned word of 1, 2 or 4 bytes. Says whether BARs may have moved.
    pub fn write_config(&mut self, offset: u16, data: &[u8]) -> bool {
        let word = offset & !3;
        let msix = self.msix.as_ref().map(|msix| msix.capability().at);
        if (config::BARS..config::ROM - 8).contains(&word) {
            self.write_bar_register(offset, data);
        } else if Some(word) == msix {
            if let Some(value) = high_byte(offset, word + 3, data) {
                self.write_msix_control(value);
            }
            return false;
        } else if word != config::ROM {
            self.with_card(|card| card.write(CONFIG, u64::from(offset), data));
            let control = self.header.device_control;
            if control.and_then(|at| high_byte(offset, at + 1, data)).is_some_and(|value| value & FLR != 0) {
                self.reset();
            } else if word == config::COMMAND {
                let mut command = [0];
                self.with_card(|card| card.read(CONFIG, u64::from(config::COMMAND), &mut command));
                self.decodes = command[0] & config::MEMORY_SPACE != 0;
            } else {
                return !self.is_alive();
            }
        }
        self.settle();
        true
    }

    fn write_bar_register(&mut self, offset: u16, data: &[u8]) {
        let register = usize::from(offset - config::BARS) / 4;
        let mut value = self.bars.read(register).to_le_bytes();
        for (byte, new) in value.iter_mut().skip(usize::from(offset % 4)).zip(data) {
            *byte = *new;
        }
        self.bars.write(register, u32::from_le_bytes(value));
    }

    fn write_msix_control(&mut self, value: u8) {
        let Some(msix) = &mut self.msix else { return };
        match msix.set_control(value, &*self.site.platform) {
            Change::None => {}
            Change::Enabled => self.give_eventfds(),
            Change::Disabled => {
                self.with_card(|card| card.disable_irqs(MSIX));
            }
        }
    }

    /// The guest reads a BAR.
    pub fn read_bar(&mut self, index: usize, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let part =
            self.msix.as_ref().and_then(|msix| msix.part(index, offset, data.len()).map(|part| (msix, part)));
        match part {
            Some((msix, (Part::Table, at))) => msix.read_table(at, data),
            Some((msix, (Part::Pending, at))) => msix.read_pending(at, data),
            Some((_, (Part::Torn, _))) => {}
            None => {
                if self.with_card(|card| card.read(region(index), offset, data)).is_none() {
                    data.fill(0xFF);
                }
            }
        }
    }

    /// The guest writes a BAR.
    pub fn write_bar(&mut self, index: usize, offset: u64, data: &[u8]) {
        let part = self.msix.as_ref().and_then(|msix| msix.part(index, offset, data.len()));
        match (part, &mut self.msix) {
            (Some((Part::Table, at)), Some(msix)) => msix.write_table(at, data, &*self.site.platform),
            (Some(_), _) => {}
            (None, _) => {
                self.with_card(|card| card.post(region(index), offset, data));
            }
        }
    }

    /// Takes the function out of the machine. In an `orderly` removal the card is asked to finish and to let go of
    /// guest memory first; otherwise the closed socket tells it.
    pub fn unplug(&mut self, orderly: bool) {
        self.decodes = false;
        self.settle();
        if orderly {
            self.with_card(|card| card.disable_irqs(MSIX));
            if self.resettable {
                self.with_card(Client::reset);
            }
            self.with_card(Client::dma_unmap_all);
        }
        self.lose();
    }

    /// After a function level reset: as after power on, with the guest's memory still given.
    fn reset(&mut self) {
        self.bars.reset();
        self.decodes = false;
        if let Some(msix) = &mut self.msix {
            msix.reset(&*self.site.platform);
        }
        self.with_card(|card| card.disable_irqs(MSIX));
    }

    /// Asks the card. A refusal is `None`, and so is everything once the card is gone.
    fn with_card<T>(&mut self, ask: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Option<T> {
        let result = ask(self.card.as_mut()?);
        self.judge(result)
    }

    fn judge<T>(&mut self, result: Result<T, ClientError>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(ClientError::Refused(_)) => {}
            Err(_) => self.lose(),
        }
        None
    }

    /// The card is gone: nothing of it stays.
    fn lose(&mut self) {
        if let Some(card) = self.card.take() {
            // The slot holds another descriptor of it. An error means that it is closed.
            let _ = shutdown(&card, Shutdown::Both);
        }
        self.decodes = false;
        self.settle();
        if let Some(mut msix) = self.msix.take() {
            msix.unbind(&*self.site.platform);
        }
        self.windows.clear();
    }
}

fn lock(function: &Mutex<Function>) -> MutexGuard<'_, Function> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte at `wanted`, if the write reaches it.
fn high_byte(offset: u16, wanted: u16, data: &[u8]) -> Option<u8> {
    wanted.checked_sub(offset).and_then(|at| data.get(usize::from(at))).copied()
}
