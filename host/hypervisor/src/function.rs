//! A PCI function behind a slot: a card's, over a connected vfio-user socket, or one of the host's hardware.
//!
//! The guest's accesses to configuration space and BARs are messages to the card, except for what decides over the
//! guest's own machine: BARs, MSI-X and the capability list are kept here. Where the card offers it, parts of a BAR
//! are shared memory and writes are eventfds, and then nobody but the card sees them. Hardware is reached in the same
//! way, through the kernel ([`crate::passthrough`]).
//!
//! The card may lie, stop or vanish at any time. From then on the function answers as an empty slot does, with all
//! ones; nothing of it stays mapped or bound.

mod backend;
mod learn;
mod moving;
mod place;

pub use backend::{Backend, Lifeline};

use crate::{
    bus::Bus,
    irq::Platform,
    memory::Memory,
    passthrough::Hardware,
    pci::{
        Unfit,
        bar::{self, Bars},
        config::{self, Header},
        msix::{Change, Msix, Part},
    },
};
use guest_memory::DmaMap;
use learn::region;
pub use moving::FunctionState;
use place::Window;
use rustix::io::Errno;
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
    /// Its memory could not be locked for the host's hardware.
    #[error(
        "guest memory could not be locked for the host's hardware: {0}; the process's limit of locked memory must hold it"
    )]
    Memory(Errno),
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
            Self::Memory(_) => "function.memory",
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
    card: Option<Box<dyn Backend>>,
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
    ) -> Result<(Arc<Mutex<Self>>, Lifeline), FunctionError> {
        let mut card = Client::patient(socket, Some(PATIENCE))?;
        let lifeline = Lifeline::Card(Arc::downgrade(card.socket()));
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
        Ok((Self::learn(Box::new(card), site)?, lifeline))
    }

    /// The same with a function of the host's hardware, for which `descriptors` are its container and its own. It must be
    /// able to be reset.
    pub fn pass_through(
        descriptors: [OwnedFd; 2],
        memory: &Memory,
        site: &Arc<Site>,
    ) -> Result<(Arc<Mutex<Self>>, Lifeline), FunctionError> {
        let (hardware, lifeline) = Hardware::new(descriptors, memory)?;
        Ok((Self::learn(Box::new(hardware), site)?, lifeline))
    }

    fn give_eventfds(&mut self) {
        let (Some(msix), Some(card)) = (&self.msix, &mut self.card) else { return };
        if msix.enabled() {
            let given = card.set_eventfds(MSIX, &msix.eventfds());
            self.judge(given);
        }
    }

    /// The card is there.
    pub const fn is_alive(&self) -> bool {
        self.card.is_some()
    }

    /// It can go on in another process, or is gone.
    pub fn can_move(&self) -> bool {
        self.card.as_ref().is_none_or(|card| card.keep().is_some())
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
            if offset == config::COMMAND && data.first().is_some_and(|low| low & config::MEMORY_SPACE == 0) {
                // What is shared must be gone before it stops answering.
                self.decodes = false;
                self.settle();
            }
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
                self.with_card(|card| card.reset());
            }
            self.with_card(|card| card.take_memory());
        }
        self.lose();
    }

    /// After a function level reset: as after power on, with the guest's memory still given.
    fn reset(&mut self) {
        self.bars.reset();
        self.decodes = false;
        self.settle();
        if let Some(msix) = &mut self.msix {
            msix.reset(&*self.site.platform);
        }
        self.with_card(|card| card.disable_irqs(MSIX));
        self.with_card(|card| card.function_level_reset());
    }

    /// Asks the card. A refusal is `None`, and so is everything once the card is gone.
    fn with_card<T>(&mut self, ask: impl FnOnce(&mut dyn Backend) -> Result<T, ClientError>) -> Option<T> {
        let result = ask(&mut **self.card.as_mut()?);
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
        self.decodes = false;
        self.settle();
        if let Some(mut msix) = self.msix.take() {
            msix.unbind(&*self.site.platform);
        }
        self.windows.clear();
        // Last: nothing of it is in the guest's sight any more.
        self.card = None;
    }
}

fn lock(function: &Mutex<Function>) -> MutexGuard<'_, Function> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte at `wanted`, if the write reaches it.
fn high_byte(offset: u16, wanted: u16, data: &[u8]) -> Option<u8> {
    wanted.checked_sub(offset).and_then(|at| data.get(usize::from(at))).copied()
}
