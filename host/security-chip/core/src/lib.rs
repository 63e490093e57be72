//! The security chip's decisions: which of the board's reset lines are held, what the board's two masters (processors
//! and management controller) may do to flash and other devices over SPI, I²C and the memory map, and what has been
//! refused. No I/O, no clock, no heap: the shell (`azote-security-chip`) owns flash files and sockets and asks here. It
//! does not know which firmware is good: the controller names the hashes.
//!
//! The chip stands between the main board, whose guests are hostile, and the flash that the board starts from; and it
//! holds the board for the controller. What holds always, whoever sends what in whichever order (`proofs` shows it):
//!
//! - Firmware changes only by [`Chip::update`] with an image that has exactly the authorised hash, while the processor
//!   that starts from it is held.
//! - A line is let go only by [`Chip::release`] that names the hashes of all firmware as it is at that moment, and while
//!   a processor runs, it reads exactly those bytes.
//! - What the processors wrote to their variables is gone at the next hold, and at their next start.
//! - Nothing but [`Chip::hold`] and a power cut takes a line back, and nothing but both is needed for it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod bus;
pub mod kernel;
mod record;
pub mod spi;
#[cfg(test)]
mod tests;

pub use bus::address;
use domain::Native;
use kernel::{Release, Update};
pub use record::{Attempts, Entry, Event, RECORD, Record, Target};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Who starts from a firmware flash and drives the board's buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Master {
    /// The main board's processors.
    Cpu,
    /// The management controller.
    Bmc,
}

impl Master {
    /// Both, in the order of all arrays here.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Bmc];

    /// Its reset line.
    pub const fn line(self) -> Line {
        match self {
            Self::Cpu => Line::Cpu,
            Self::Bmc => Line::Bmc,
        }
    }
}

/// A reset line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// The board but for the other two: chipset, slots.
    Board,
    /// The management controller.
    Bmc,
    /// The processors. Held whenever the board is.
    Cpu,
}

impl Line {
    /// All, in the order in which a board starts.
    pub const ALL: [Self; 3] = [Self::Bmc, Self::Board, Self::Cpu];

    const fn master(self) -> Option<Master> {
        match self {
            Self::Board => None,
            Self::Bmc => Some(Master::Bmc),
            Self::Cpu => Some(Master::Cpu),
        }
    }
}

/// The parts of the firmware flashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// A master's firmware.
    Code(Master),
    /// The processors' variables.
    Variables,
}

/// The flashes behind the chip, and what it tells of the board.
pub trait Flash {
    /// Why a flash could not be read or written.
    type Error;
    /// What the board reads.
    fn served(&self, region: Region) -> &[u8];
    /// Digest of the firmware that a master's flash holds now. Does not change what the board reads.
    fn measure(&mut self, of: Master) -> Result<Digest, Self::Error>;
    /// From now on the board reads the firmware that the flash holds now. Gives the digest of exactly those bytes.
    fn reload(&mut self, of: Master) -> Result<Digest, Self::Error>;
    /// Digest of any bytes.
    fn digest(&self, bytes: &[u8]) -> Digest;
    /// Makes `image`, which is as long as the firmware, the firmware in a master's flash. Durable on return.
    fn program(&mut self, of: Master, image: &[u8]) -> Result<(), Self::Error>;
    /// Changes the board's copy of the variables. All of `data` lies in there.
    fn overlay(&mut self, offset: u64, data: &[u8]);
    /// The board reads the variables that the flash holds.
    fn drop_overlay(&mut self);
    /// Which board this is, 256 bytes at most: what its identity memory holds.
    fn identity(&self) -> &[u8];
}

/// Why the chip did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Only variables may be written, and only while the processors run.
    Write,
    /// Some firmware has another hash than the one named.
    Unverified,
    /// The processors wait for the board.
    Order,
    /// Firmware is updated only while its processor is held.
    NotHeld,
    /// The image is not as long as the firmware.
    Length,
    /// The image has another hash than the authorised one.
    Hash,
    /// The flash does not hold the image after it was written.
    ReadBack,
    /// The flash could not be read or written.
    Flash,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::Write,
        Self::Unverified,
        Self::Order,
        Self::NotHeld,
        Self::Length,
        Self::Hash,
        Self::ReadBack,
        Self::Flash,
    ];

    /// Its number in the kernel, from 1; 0 stands for no refusal.
    pub const fn number(self) -> u64 {
        self as u64 + 1
    }

    /// What a number of the kernel says.
    pub fn result(number: u64) -> Result<(), Self> {
        match number {
            0 => Ok(()),
            _ => Err(Self::ALL.into_iter().find(|r| r.number() == number).unwrap_or(Self::Write)),
        }
    }

    /// The stable code for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Write => "chip.write",
            Self::Unverified => "chip.unverified",
            Self::Order => "chip.order",
            Self::NotHeld => "chip.not-held",
            Self::Length => "chip.update-length",
            Self::Hash => "chip.update-hash",
            Self::ReadBack => "chip.update-read-back",
            Self::Flash => "chip.flash",
        }
    }
}

/// All that the chip decides by, beside its flashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// The lines that are let go, in the order of [`Line`].
    released: [bool; 3],
    /// The digest of what a master runs.
    running: [Option<Digest>; 2],
    sides: [bus::Side; 2],
}

impl State {
    /// Whether a master's own flash takes the next write of it.
    pub const fn write_enabled(&self, master: Master) -> bool {
        self.sides[master as usize].enabled()
    }
}

/// The chip with its flashes; keeps the newest `SIZE` events. Starts holding every line.
#[derive(Debug, Clone)]
pub struct Chip<F, const SIZE: usize = RECORD> {
    flash: F,
    state: State,
    record: Record<SIZE>,
}

impl<F: Flash, const SIZE: usize> Chip<F, SIZE> {
    /// Powers on.
    pub fn new(flash: F) -> Self {
        let state = State { released: [false; 3], running: [None; 2], sides: Default::default() };
        Self { flash, state, record: Record::new() }
    }

    /// The flashes, to read from. Nothing outside the chip can change them.
    pub const fn flash(&self) -> &F {
        &self.flash
    }

    /// For models alone: the flashes, for somebody who changes them past the chip.
    #[doc(hidden)]
    pub const fn past_the_chip(&mut self) -> &mut F {
        &mut self.flash
    }

    /// What it decides by.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether a line is held.
    pub const fn holds(&self, line: Line) -> bool {
        !self.state.released[line as usize]
    }

    /// The digest of what a master runs, if its line is let go.
    pub const fn running(&self, master: Master) -> Option<Digest> {
        self.state.running[master as usize]
    }

    /// What happened.
    pub const fn record(&mut self) -> &mut Record<SIZE> {
        &mut self.record
    }

    /// The digest of the firmware that a master's flash holds now.
    pub fn measure(&mut self, of: Master) -> Result<Digest, Refusal> {
        self.flash.measure(of).map_err(|_| Refusal::Flash)
    }

    /// The controller lets a line go; it has verified the firmware of both masters, in the order of [`Master::ALL`].
    pub fn release(&mut self, line: Line, verified: &[Digest; 2]) -> Result<(), Refusal> {
        let mut present = [Digest::default(); 2];
        for (digest, master) in present.iter_mut().zip(Master::ALL) {
            *digest = match self.running(master) {
                Some(running) => running,
                None => self.flash.reload(master).map_err(|_| Refusal::Flash)?,
            };
        }
        Refusal::result(kernel::release::<Native>(
            &Native,
            &Release {
                cpu: line == Line::Cpu,
                board: !self.holds(Line::Board),
                present: present.each_ref().map(kernel::hash),
                verified: verified.each_ref().map(kernel::hash),
            },
        ))?;
        if self.holds(line) {
            self.state.released[line as usize] = true;
            if let Some(master) = line.master() {
                self.state.running[master as usize] = Some(present[master as usize]);
            }
            self.record.push(Event::Released(line));
        }
        Ok(())
    }

    /// Holds a line; with the board's, the processors' too. Never refused.
    pub fn hold(&mut self, line: Line) {
        if line == Line::Board {
            self.hold(Line::Cpu);
        }
        if let Some(master) = line.master() {
            self.restarted(master);
            self.state.running[master as usize] = None;
        }
        if !self.holds(line) {
            self.state.released[line as usize] = false;
            self.record.push(Event::Held(line));
        }
    }

    /// A master was reset without its line: it starts again from the bytes that it ran, and from the flash's own
    /// variables.
    pub fn restarted(&mut self, master: Master) {
        self.state.sides[master as usize] = bus::Side::default();
        if master == Master::Cpu {
            self.flash.drop_overlay();
        }
    }

    /// The controller authorises one image by its digest as a master's firmware; writes it and reads it back.
    pub fn update(&mut self, of: Master, authorised: &Digest, image: &[u8]) -> Result<(), Refusal> {
        let outcome = self.try_update(of, authorised, image);
        self.record.push(match outcome {
            Ok(()) => Event::Updated { of, digest: *authorised },
            Err(refusal) => Event::UpdateRefused { code: refusal.code() },
        });
        outcome
    }

    fn try_update(&mut self, of: Master, authorised: &Digest, image: &[u8]) -> Result<(), Refusal> {
        Refusal::result(kernel::update::<Native>(
            &Native,
            &Update {
                held: self.holds(of.line()),
                length: image.len() as u64,
                room: self.flash.served(Region::Code(of)).len() as u64,
                image: kernel::hash(&self.flash.digest(image)),
                authorised: kernel::hash(authorised),
            },
        ))?;
        self.flash.program(of, image).map_err(|_| Refusal::Flash)?;
        let written = self.flash.reload(of).map_err(|_| Refusal::Flash)?;
        let same = kernel::same::<Native>(&Native, &kernel::hash(&written), &kernel::hash(authorised));
        if same { Ok(()) } else { Err(Refusal::ReadBack) }
    }
}
