//! SPI flash commands, as common 25-series parts take them (JESD216 for the parameters): one transaction is what a
//! master sends while the chip selects a flash, and how many bytes it then reads.

/// Bytes of a page: what one command programs at most.
pub const PAGE: u64 = PAGE_BYTES as u64;
pub(crate) const PAGE_BYTES: usize = 256;

/// A command. Addresses are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Read the identification (9Fh).
    Identify,
    /// Read manufacturer and device (90h), or the device alone (ABh), from this place in the answer on.
    Signature(u64),
    /// Read the parameters (5Ah).
    Parameters(u64),
    /// Read a status register: 0 for the first.
    Status(u8),
    /// Read.
    Read(u64),
    /// Write enable (06h) or disable (04h).
    Enable(bool),
    /// Take addresses of four bytes (B7h), or of three (E9h).
    FourBytes(bool),
    /// Program a page.
    Program {
        /// The first byte; the others follow, around the end of the page to its beginning.
        address: u64,
        /// 1 to 256 bytes.
        data: &'a [u8],
    },
    /// Erase: all bits of a block to one.
    Erase {
        /// Any address in the block.
        address: u64,
        /// Bytes of the block, a power of two; none for the whole flash.
        size: Option<u64>,
    },
    /// No command that the flash takes, or an incomplete one. After write enable it may be one that changes something.
    Other,
}

/// Where a command's address comes from.
#[derive(Clone, Copy)]
enum Address {
    None,
    Three,
    Four,
    /// Three bytes or four, as set before.
    Mode,
}

/// A master's side of a flash: lost when the master is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Port {
    /// Write enable came, and nothing was written since.
    pub enabled: bool,
    /// Addresses have four bytes.
    pub four_bytes: bool,
}

impl Port {
    /// Understands what a master sent. Never more than the one command; what follows it is the command's own.
    pub fn parse<'a>(&self, bytes: &'a [u8]) -> Command<'a> {
        self.command(bytes).unwrap_or(Command::Other)
    }

    fn command<'a>(&self, bytes: &'a [u8]) -> Option<Command<'a>> {
        let (opcode, rest) = bytes.split_first()?;
        // Address and bytes without meaning before the command's own.
        let take = |address: Address, dummy: usize| -> Option<(u64, &'a [u8])> {
            let count = match (address, self.four_bytes) {
                (Address::None, _) => 0,
                (Address::Three, _) | (Address::Mode, false) => 3,
                (Address::Four, _) | (Address::Mode, true) => 4,
            };
            let (address, rest) = rest.split_at_checked(count)?;
            let address = address.iter().fold(0, |address, byte| address << 8 | u64::from(*byte));
            Some((address, rest.get(dummy..)?))
        };
        // Bytes that are sent while the flash already answers only move the answer on.
        let read = |kind, dummy| take(kind, dummy).map(|(address, more)| address + more.len() as u64);
        let erase =
            |kind, size| take(kind, 0).map(|(address, _)| Command::Erase { address, size: Some(size) });
        let program = |kind| {
            let (address, data) = take(kind, 0)?;
            (1..=PAGE).contains(&(data.len() as u64)).then_some(Command::Program { address, data })
        };
        match opcode {
            0x9f => Some(Command::Identify),
            0x90 => read(Address::Three, 0).map(Command::Signature),
            0xab => read(Address::None, 3).map(|skipped| Command::Signature(1 + skipped)),
            0x5a => read(Address::Three, 1).map(Command::Parameters),
            0x05 => Some(Command::Status(0)),
            0x35 => Some(Command::Status(1)),
            0x15 => Some(Command::Status(2)),
            0x03 => read(Address::Mode, 0).map(Command::Read),
            0x0b => read(Address::Mode, 1).map(Command::Read),
            0x13 => read(Address::Four, 0).map(Command::Read),
            0x0c => read(Address::Four, 1).map(Command::Read),
            0x06 => Some(Command::Enable(true)),
            0x04 => Some(Command::Enable(false)),
            0xb7 => Some(Command::FourBytes(true)),
            0xe9 => Some(Command::FourBytes(false)),
            0x02 => program(Address::Mode),
            0x12 => program(Address::Four),
            0x20 => erase(Address::Mode, 4 << 10),
            0x21 => erase(Address::Four, 4 << 10),
            0x52 => erase(Address::Mode, 32 << 10),
            0x5c => erase(Address::Four, 32 << 10),
            0xd8 => erase(Address::Mode, 64 << 10),
            0xdc => erase(Address::Four, 64 << 10),
            0x60 | 0xc7 => Some(Command::Erase { address: 0, size: None }),
            _ => None,
        }
    }

    /// The byte of a status register. The flash is never busy: what it does is done when it answers.
    pub(crate) const fn status(self, register: u8) -> u8 {
        match register {
            0 => (self.enabled as u8) << 1,
            2 => self.four_bytes as u8,
            _ => 0,
        }
    }
}

/// A byte of the identification of a flash of `size` bytes: as the W25Q parts answer, which drivers know.
pub(crate) fn identification(size: u64, at: u64) -> u8 {
    match at {
        0 => 0xef,
        1 => 0x40,
        2 => capacity(size),
        _ => 0xff,
    }
}

/// A byte of manufacturer and device, over and over.
pub(crate) fn signature(size: u64, at: u64) -> u8 {
    if at.is_multiple_of(2) { 0xef } else { capacity(size).saturating_sub(1) }
}

/// The power of two that holds `size` bytes.
fn capacity(size: u64) -> u8 {
    // A length has 64 bits.
    u8::try_from(size.next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX)
}

/// A byte of the parameters (JESD216, revision 1.0): one table of nine double words after both headers.
pub(crate) fn parameters(size: u64, at: u64) -> u8 {
    let bits = u32::try_from(size.saturating_mul(8)).map_or(u32::MAX, |bits| bits.saturating_sub(1));
    let words = [
        u32::from_le_bytes(*b"SFDP"),
        0xff00_0100,
        0x0901_0000,
        0xff00_0010,
        // Erases 4 KiB by 20h; pages; addresses of three or four bytes; reads by one line only.
        0xff82_20e5,
        bits,
        0,
        0,
        0xffff_ffee,
        0x0000_ffff,
        0x0000_ffff,
        // Erases 4 KiB, 32 KiB, 64 KiB.
        0x520f_200c,
        0x0000_d810,
    ];
    let word = usize::try_from(at / 4).ok().and_then(|word| words.get(word));
    word.map_or(0xff, |word| word.to_le_bytes()[(at % 4) as usize])
}
