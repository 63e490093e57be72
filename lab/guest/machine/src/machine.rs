//! What the machine is made of, as its start info and tables say.

use crate::acpi::Tables;
use crate::arch::{self, peek};
use crate::clock::Clock;
use crate::nvme::Nvme;
use crate::report::{COM1, Outcome, Text, require, text};

/// Sleep control register and S5 value of the machine's power block.
const SLEEP: (u16, u8) = (0x600, 0x34);

/// A range of RAM.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ram {
    /// First address.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// The machine under test.
pub(crate) struct Machine {
    /// RAM, as the start info lists it.
    pub(crate) ram: [Ram; 8],
    /// The firmware tables.
    pub(crate) tables: Tables,
    /// Time.
    pub(crate) clock: Clock,
    /// The local timer's ticks in a millisecond; 0 until measured.
    pub(crate) ticks: u64,
    /// Processors that run, this one included.
    pub(crate) running: u32,
    /// The NVMe function under test, started.
    pub(crate) nvme: Option<Nvme>,
    free: u64,
    words: Text,
}

impl Machine {
    /// Reads the start info and the tables it leads to.
    pub(crate) fn find() -> Outcome<Self> {
        let info = arch::start();
        require!(peek::<u32>(info) == 0x336e_c578, "no PVH start info at {info:#x}");
        require!(peek::<u32>(info + 4) >= 1, "the start info has no memory map");
        let (map, entries) = (peek::<u64>(info + 40), peek::<u32>(info + 48));
        let mut ram = [Ram::default(); 8];
        let usable = (0..u64::from(entries)).map(|n| map + 24 * n).filter(|at| peek::<u32>(at + 16) == 1);
        for (to, at) in ram.iter_mut().zip(usable) {
            *to = Ram { start: peek(at), len: peek(at + 8) };
        }
        let tables = Tables::find(peek(info + 32))?;
        // What devices and clocks write to lies above the image, on its own large page.
        let free = arch::image().1.next_multiple_of(1 << 21);
        let mut machine = Self {
            ram,
            tables,
            clock: Clock::default(),
            ticks: 0,
            running: 1,
            nvme: None,
            free,
            words: words(peek(info + 24)),
        };
        let pages = machine.pages(2);
        machine.clock = Clock::start(pages);
        Ok(machine)
    }

    /// Whether the command line has this word.
    pub(crate) fn told(&self, word: &str) -> bool {
        self.words.as_str().split(' ').any(|told| told == word)
    }

    /// Whether a check is to be made: all are, unless the command line says `only=` for some.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let mut only = self.words.as_str().split(' ').filter_map(|word| word.strip_prefix("only="));
        only.clone().next().is_none() || only.any(|told| told == name)
    }

    /// Takes so many zeroed pages of 4 KiB, for good.
    pub(crate) fn pages(&mut self, count: u64) -> u64 {
        let at = self.free;
        self.free += count * 4096;
        for word in (at..self.free).step_by(8) {
            arch::poke(word, 0u64);
        }
        at
    }

    /// Where memory begins that nobody has taken.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }
}

/// The command line.
fn words(at: u64) -> Text {
    let mut words = text!("");
    let bytes = (at..).map(peek::<u8>).take_while(|byte| at != 0 && *byte != 0);
    bytes.take(128).for_each(|byte| words.push(byte));
    words
}

/// The serial port keeps what is written to its scratch register and is ready to send.
pub(crate) fn console(_: &mut Machine) -> Outcome {
    for value in [0x5a, 0xa5] {
        arch::out8(COM1 + 7, value);
        require!(arch::in8(COM1 + 7) == value, "the scratch register does not hold {value:#x}");
    }
    let status = arch::in8(COM1 + 5);
    require!(status & 0x60 == 0x60, "line status {status:#x}: not ready to send");
    Ok(text!("16550"))
}

/// Ends the machine: soft off, then, where that is not understood, a triple fault.
pub(crate) fn power_off() -> ! {
    arch::out8(SLEEP.0, SLEEP.1);
    arch::triple_fault()
}
