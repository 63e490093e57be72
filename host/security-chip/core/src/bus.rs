//! The board's buses: what a master's SPI and I²C transactions and its memory-mapped writes do.

use crate::{
    Attempts, Chip, Flash, Master, Refusal, Region, Target,
    kernel::{self, Access, Verdict, device},
    spi::{self, Command, PAGE, PAGE_BYTES, Port},
};
use domain::Native;

/// I²C addresses.
pub mod address {
    /// The memory that says which board this is: 256 bytes, addressed by one.
    pub const IDENTITY: u8 = 0x50;
    /// The reset controller. Registers: 0 is 41h, 1 its version, 2 the held lines (bit 0 board, 1 BMC, 2 processors).
    pub const RESET: u8 = 0x20;
}

/// What a master set up on the buses. Masters share nothing here, so neither tells the other anything by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Side {
    port: Port,
    identity: u8,
    reset: u8,
}

impl Side {
    pub(crate) const fn enabled(&self) -> bool {
        self.port.enabled
    }
}

/// What a command would do to the bytes of a flash.
#[derive(Clone, Copy)]
enum Change<'a> {
    Program { address: u64, data: &'a [u8] },
    Erase,
}

impl Change<'_> {
    /// What becomes of the byte at `at`: programming only ever clears bits.
    fn of(self, at: u64, byte: u8) -> u8 {
        match self {
            Self::Erase => 0xff,
            Self::Program { address, data } => {
                let place = (at % PAGE).wrapping_sub(address % PAGE) % PAGE;
                byte & usize::try_from(place).ok().and_then(|place| data.get(place)).unwrap_or(&0xff)
            }
        }
    }
}

impl<F: Flash, const SIZE: usize> Chip<F, SIZE> {
    /// A master sends `out` to the flash that `select` names (0: the processors', 1: the BMC's), and then reads `into`.
    /// Where nothing answers, the bus reads as ones.
    pub fn spi(&mut self, master: Master, select: u8, out: &[u8], into: &mut [u8]) {
        into.fill(0xff);
        let Some(owner) = Master::ALL.get(usize::from(select)).copied() else { return };
        let size = self.size(owner);
        if size == 0 {
            return;
        }
        let own = master == owner;
        let side = master as usize;
        // The other master's flash listens to nobody here: what would change it is an attempt, enabled or not.
        let port = if own { self.state.sides[side].port } else { Port { enabled: true, four_bytes: false } };
        let command = port.parse(out);
        if self.spi_change(master, owner, port, command) {
            if own {
                self.state.sides[side].port.enabled = false;
            }
            return;
        }
        if self.access(master, flash_of(owner), false, true, (0, into.len() as u64)) != Verdict::Read {
            let target = Target::Flash(Region::Code(owner));
            self.record.read_refused(attempt(master, target, 0, into.len() as u64, false));
            return;
        }
        match command {
            Command::Enable(enabled) => self.state.sides[side].port.enabled = enabled,
            Command::FourBytes(four) => self.state.sides[side].port.four_bytes = four,
            Command::Read(from) => self.spi_read(owner, from, into),
            Command::Identify => fill(into, 0, |at| spi::identification(size, at)),
            Command::Signature(from) => fill(into, from, |at| spi::signature(size, at)),
            Command::Parameters(from) => fill(into, from, |at| spi::parameters(size, at)),
            Command::Status(register) => into.fill(port.status(register)),
            Command::Program { .. } | Command::Erase { .. } | Command::Other => {}
        }
    }

    /// Does or refuses what a command would change. Gives `false` if it would change nothing.
    fn spi_change(&mut self, master: Master, owner: Master, port: Port, command: Command<'_>) -> bool {
        let size = self.size(owner);
        let (change, from, length, bytes) = match command {
            Command::Program { address, data } => {
                (Change::Program { address, data }, address - address % PAGE, PAGE, data.len() as u64)
            }
            Command::Erase { address, size: Some(block) } => {
                (Change::Erase, address - address % block, block, block)
            }
            Command::Erase { size: None, .. } => (Change::Erase, 0, size, size),
            Command::Other if port.enabled => {
                // What it would do is not known: to all of the flash, and more.
                if self.access(master, flash_of(owner), true, true, (0, u64::MAX)) != Verdict::Ignore {
                    self.record.write_refused(attempt(master, Target::Registers, 0, 0, true));
                }
                return true;
            }
            _ => return false,
        };
        match self.access(master, flash_of(owner), true, port.enabled, (from, length)) {
            Verdict::Overlay => {
                let mut page = [0; PAGE_BYTES];
                for at in (from..from + length).step_by(PAGE_BYTES) {
                    self.spi_read(owner, at, &mut page);
                    for (at, byte) in (at..).zip(&mut page) {
                        *byte = change.of(at, *byte);
                    }
                    self.flash.overlay(at, &page);
                }
            }
            Verdict::Refuse => {
                let bytes_there = (from..size.min(from.saturating_add(length))).zip(self.bytes(owner, from));
                let changing = bytes_there.into_iter().any(|(at, byte)| change.of(at, byte) != byte);
                let (region, offset) = self.place(owner, from, length);
                self.record.write_refused(attempt(master, Target::Flash(region), offset, bytes, changing));
            }
            Verdict::Ignore | Verdict::Read => {}
        }
        true
    }

    /// A master sends `out` to the I²C device at `address`, and then reads `into`. Gives whether it was acknowledged;
    /// where it was not, the bus reads as ones.
    pub fn i2c(&mut self, master: Master, address: u8, out: &[u8], into: &mut [u8]) -> bool {
        into.fill(0xff);
        let (device, target) = match address {
            address::IDENTITY => (device::IDENTITY, Target::Identity),
            address::RESET => (device::RESET, Target::ResetController),
            _ => return false,
        };
        let side = &mut self.state.sides[master as usize];
        let pointer = if device == device::IDENTITY { &mut side.identity } else { &mut side.reset };
        if let Some((first, data)) = out.split_first() {
            *pointer = *first;
            if !data.is_empty() {
                let (from, bytes) = (u64::from(*first), data.len() as u64);
                if self.access(master, device, true, true, (from, bytes)) != Verdict::Ignore {
                    self.record.write_refused(attempt(master, target, from, bytes, true));
                }
                return false;
            }
        }
        let from = *pointer;
        // An address of one byte: what is read goes round.
        *pointer = from.wrapping_add(u8::try_from(into.len() % 256).unwrap_or(0));
        if self.access(master, device, false, true, (u64::from(from), into.len() as u64)) != Verdict::Read {
            return false;
        }
        let held = |line, bit: u8| u8::from(self.holds(line)) << bit;
        let lines = held(crate::Line::Board, 0) | held(crate::Line::Bmc, 1) | held(crate::Line::Cpu, 2);
        let registers = [b'A', 1, lines];
        let bytes = if device == device::IDENTITY { self.flash.identity() } else { &registers };
        fill(into, u64::from(from), |at| bytes.get((at % 256) as usize).copied().unwrap_or(0xff));
        true
    }

    /// The processors write where their firmware flash is mapped into memory.
    pub fn map_write(&mut self, region: Region, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        let window = self.window();
        let (owner, base) = match region {
            Region::Variables => (Master::Cpu, 0),
            Region::Code(owner) => (owner, if owner == Master::Cpu { window } else { 0 }),
        };
        let from = offset.saturating_add(base);
        match self.access(Master::Cpu, flash_of(owner), true, true, (from, data.len() as u64)) {
            Verdict::Overlay => {
                self.flash.overlay(from, data);
                Ok(())
            }
            _ => {
                let there = usize::try_from(offset).ok().and_then(|at| self.flash.served(region).get(at..));
                let changing = there.is_none_or(|there| !there.starts_with(data));
                let bytes = data.len() as u64;
                self.record.write_refused(attempt(
                    Master::Cpu,
                    Target::Flash(region),
                    offset,
                    bytes,
                    changing,
                ));
                Err(Refusal::Write)
            }
        }
    }

    /// Asks the kernel. `range` is the first byte and how many.
    fn access(&self, master: Master, device: u64, writes: bool, enabled: bool, range: (u64, u64)) -> Verdict {
        Verdict::from_number(kernel::access::<Native>(
            &Native,
            &Access {
                master: master as u64,
                device,
                writes,
                enabled,
                runs: !self.holds(master.line()),
                from: range.0,
                length: range.1,
                window: self.window(),
            },
        ))
    }

    /// Where the processors' variables end and their code begins.
    fn window(&self) -> u64 {
        self.flash.served(Region::Variables).len() as u64
    }

    /// Bytes of a master's flash.
    fn size(&self, owner: Master) -> u64 {
        let variables = if owner == Master::Cpu { self.window() } else { 0 };
        variables.saturating_add(self.flash.served(Region::Code(owner)).len() as u64)
    }

    /// The part of a flash that a range reaches, and where in there: code, if any of it is.
    fn place(&self, owner: Master, from: u64, length: u64) -> (Region, u64) {
        let window = if owner == Master::Cpu { self.window() } else { 0 };
        if from.saturating_add(length) <= window {
            (Region::Variables, from)
        } else {
            (Region::Code(owner), from.saturating_sub(window))
        }
    }

    /// The bytes of a master's flash as it reads them.
    fn bytes(&self, owner: Master, from: u64) -> impl Iterator<Item = u8> {
        let variables: &[u8] = if owner == Master::Cpu { self.flash.served(Region::Variables) } else { &[] };
        let code = self.flash.served(Region::Code(owner));
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let code_from = from.saturating_sub(variables.len());
        let variables = variables.get(from..).unwrap_or_default();
        variables.iter().chain(code.get(code_from..).unwrap_or_default()).copied()
    }

    fn spi_read(&self, owner: Master, from: u64, into: &mut [u8]) {
        into.iter_mut().zip(self.bytes(owner, from)).for_each(|(to, byte)| *to = byte);
    }
}

const fn flash_of(owner: Master) -> u64 {
    match owner {
        Master::Cpu => device::FLASH,
        Master::Bmc => device::BMC_FLASH,
    }
}

const fn attempt(master: Master, target: Target, offset: u64, bytes: u64, changing: bool) -> Attempts {
    Attempts { master, target, offset, bytes, attempts: 1, changing: changing as u64 }
}

fn fill(into: &mut [u8], from: u64, byte: impl Fn(u64) -> u8) {
    into.iter_mut().zip(from..).for_each(|(to, at)| *to = byte(at));
}
