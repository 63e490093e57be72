//! The security chip's decisions: whether the main board is in reset, what may be written to its firmware flash,
//! and what has been refused. No I/O, no clock, no heap, no dependencies: the shell (`azote-security-chip`) owns
//! flash files and sockets and asks here. It does not know which firmware is good: the controller names the hash.
//!
//! The chip stands between the main board, whose guests are hostile, and the flash that the board boots from;
//! and it holds the board for the controller. What holds always, whoever sends what in whichever order:
//!
//! - The code region changes only by [`Chip::update`] with an image that has exactly the authorised hash, while
//!   reset is held.
//! - Reset is let go only by [`Chip::release`] that names the hash which the code region has at that moment, and
//!   while it is let go the board reads exactly those bytes.
//! - What the board wrote to its variables is gone at the next hold, and at its next start.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod record;
#[cfg(test)]
mod tests;

pub use record::{Entry, Event, RECORD, Record};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// The parts of the firmware flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// Firmware code.
    Code,
    /// The firmware's variables.
    Variables,
}

/// The reset line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The main board does not run.
    Held,
    /// The main board runs code with this digest.
    Released(Digest),
}

/// What is done with a write from the main board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing changes; the attempt is recorded.
    Refuse,
    /// Into the copy that the next hold or start of the board drops.
    Overlay,
}

/// The decision about every write from the main board: it never writes code, and it writes variables only
/// while it runs.
#[must_use]
pub const fn decide(region: Region, reset: Reset) -> Decision {
    match (region, reset) {
        (Region::Variables, Reset::Released(_)) => Decision::Overlay,
        (Region::Code, _) | (Region::Variables, Reset::Held) => Decision::Refuse,
    }
}

/// The flash behind the chip.
pub trait Flash {
    /// Why the flash could not be read or written.
    type Error;
    /// Bytes in the code region.
    fn code_length(&self) -> u64;
    /// Digest of the code that the flash holds now. Does not change what the board reads.
    fn measure(&mut self) -> Result<Digest, Self::Error>;
    /// From now on the board reads the code that the flash holds now. Gives the digest of exactly those bytes.
    fn reload(&mut self) -> Result<Digest, Self::Error>;
    /// Digest of any bytes.
    fn digest(&self, bytes: &[u8]) -> Digest;
    /// Makes `image`, which is as long as the code region, the code in the flash. Durable on return.
    fn program(&mut self, image: &[u8]) -> Result<(), Self::Error>;
    /// Whether what the board reads at `offset` is `data` already.
    fn holds(&self, region: Region, offset: u64, data: &[u8]) -> bool;
    /// Changes the board's copy of the variables.
    fn overlay(&mut self, offset: u64, data: &[u8]) -> Result<(), Self::Error>;
    /// The board reads the variables that the flash holds.
    fn drop_overlay(&mut self);
}

/// Why the chip did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Only variables may be written, and only while the board runs.
    Write,
    /// The code region has another hash than the one named.
    Unverified,
    /// Code is updated only while reset is held.
    NotHeld,
    /// The image is not as long as the code region.
    Length,
    /// The image has another hash than the authorised one.
    Hash,
    /// The flash does not hold the image after it was written.
    ReadBack,
    /// The flash could not be read or written.
    Flash,
}

impl Refusal {
    /// The stable code for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Write => "chip.write",
            Self::Unverified => "chip.unverified",
            Self::NotHeld => "chip.not-held",
            Self::Length => "chip.update-length",
            Self::Hash => "chip.update-hash",
            Self::ReadBack => "chip.update-read-back",
            Self::Flash => "chip.flash",
        }
    }
}

/// The chip with its flash. Starts holding reset.
#[derive(Debug, Clone)]
pub struct Chip<F> {
    flash: F,
    reset: Reset,
    record: Record,
}

impl<F: Flash> Chip<F> {
    /// Powers on.
    pub const fn new(flash: F) -> Self {
        Self { flash, reset: Reset::Held, record: Record::new() }
    }

    /// The flash, to read from. Nothing outside the chip can change it.
    pub const fn flash(&self) -> &F {
        &self.flash
    }

    /// The reset line.
    pub const fn reset(&self) -> Reset {
        self.reset
    }

    /// What happened.
    pub const fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// The main board writes.
    pub fn board_write(&mut self, region: Region, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        match decide(region, self.reset) {
            Decision::Overlay => self.flash.overlay(offset, data).map_err(|_| Refusal::Flash),
            Decision::Refuse => {
                let changing = !self.flash.holds(region, offset, data);
                self.record.write_refused(region, offset, data.len() as u64, changing);
                Err(Refusal::Write)
            }
        }
    }

    /// The digest of the code that the flash holds now.
    pub fn measure(&mut self) -> Result<Digest, Refusal> {
        self.flash.measure().map_err(|_| Refusal::Flash)
    }

    /// The controller lets reset go, for code with the digest `verified`.
    pub fn release(&mut self, verified: Digest) -> Result<(), Refusal> {
        let running = match self.reset {
            Reset::Released(digest) => digest,
            Reset::Held => self.flash.reload().map_err(|_| Refusal::Flash)?,
        };
        if running != verified {
            return Err(Refusal::Unverified);
        }
        if self.reset == Reset::Held {
            self.reset = Reset::Released(verified);
            self.record.push(Event::ResetReleased);
        }
        Ok(())
    }

    /// Holds reset. Never refused.
    pub fn hold(&mut self) {
        self.flash.drop_overlay();
        if self.reset != Reset::Held {
            self.reset = Reset::Held;
            self.record.push(Event::ResetHeld);
        }
    }

    /// The board has let go of its flash: it is off, or starts again, and starts from the bytes of the flash.
    pub fn board_stopped(&mut self) {
        self.flash.drop_overlay();
    }

    /// The controller authorises one image by its digest; writes it and reads it back.
    pub fn update(&mut self, authorised: Digest, image: &[u8]) -> Result<(), Refusal> {
        let outcome = self.try_update(authorised, image);
        self.record.push(match outcome {
            Ok(()) => Event::Updated { digest: authorised },
            Err(refusal) => Event::UpdateRefused { code: refusal.code() },
        });
        outcome
    }

    fn try_update(&mut self, authorised: Digest, image: &[u8]) -> Result<(), Refusal> {
        if self.reset != Reset::Held {
            return Err(Refusal::NotHeld);
        }
        if image.len() as u64 != self.flash.code_length() {
            return Err(Refusal::Length);
        }
        if self.flash.digest(image) != authorised {
            return Err(Refusal::Hash);
        }
        self.flash.program(image).map_err(|_| Refusal::Flash)?;
        match self.flash.reload() {
            Ok(digest) if digest == authorised => Ok(()),
            Ok(_) => Err(Refusal::ReadBack),
            Err(_) => Err(Refusal::Flash),
        }
    }
}
