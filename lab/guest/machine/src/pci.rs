//! PCI: configuration by ports and by memory, BARs, MSI-X.

use crate::apic;
use crate::arch::{self, cpuid, map_gib, peek, poke};
use crate::machine::Machine;
use crate::report::{Outcome, Text, fail, require, skip, text};
use core::fmt::Write as _;

const CONFIG: (u16, u16) = (0xcf8, 0xcfc);
/// Where 32-bit BARs may lie.
const WINDOW: u64 = 0xc000_0000;
/// Room for one BAR of a slot: what is larger is refused.
const ROOM: u64 = 1 << 20;

/// A function on bus 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function(pub(crate) u8);

/// A base address register.
#[derive(Clone, Copy)]
pub(crate) struct Bar {
    /// 0 to 5.
    pub(crate) number: u8,
    /// Bytes.
    pub(crate) size: u64,
    /// Takes two registers.
    pub(crate) wide: bool,
}

impl Function {
    /// Reads a register by ports; `at` is a multiple of 4.
    pub(crate) fn read(self, at: u8) -> u32 {
        arch::out32(CONFIG.0, 1 << 31 | u32::from(self.0) << 11 | u32::from(at));
        arch::in32(CONFIG.1)
    }

    /// Writes one.
    pub(crate) fn write(self, at: u8, value: u32) {
        arch::out32(CONFIG.0, 1 << 31 | u32::from(self.0) << 11 | u32::from(at));
        arch::out32(CONFIG.1, value);
    }

    /// Whether there is one.
    pub(crate) fn is_here(self) -> bool {
        self.read(0) != u32::MAX
    }

    /// Memory decoding and bus mastering on or off.
    pub(crate) fn enable(self, on: bool) {
        let command = self.read(4) & 0xffff & !0x406;
        self.write(4, if on { command | 0x406 } else { command });
    }

    /// Where a capability lies.
    pub(crate) fn capability(self, id: u8) -> Option<u8> {
        let mut at = if self.read(4) >> 20 & 1 == 1 { self.read(0x34) as u8 & !3 } else { 0 };
        for _ in 0..48 {
            let word = if at == 0 { return None } else { self.read(at) };
            if word as u8 == id {
                return Some(at);
            }
            at = (word >> 8) as u8 & !3;
        }
        None
    }

    /// The sizes of its memory BARs, found by writing ones. Decoding is off meanwhile.
    pub(crate) fn bars(self) -> Outcome<[Option<Bar>; 6]> {
        let mut bars = [None; 6];
        self.enable(false);
        let mut number = 0;
        while number < 6 {
            let at = 0x10 + 4 * number;
            let held = self.read(at);
            self.write(at, u32::MAX);
            let mask = self.read(at);
            self.write(at, held);
            let wide = mask & 6 == 4;
            if mask & !0xf != 0 {
                require!(mask & 1 == 0, "slot {}: BAR {number} is for ports", self.0);
                let size = u64::from((mask & !0xf).wrapping_neg());
                require!(
                    size.is_power_of_two() && size <= ROOM,
                    "slot {}: BAR {number} of {size:#x}",
                    self.0
                );
                bars[usize::from(number)] = Some(Bar { number, size, wide });
            }
            number += if wide { 2 } else { 1 };
        }
        Ok(bars)
    }

    /// Where a BAR lies.
    pub(crate) fn place(self, bar: Bar) -> u64 {
        let at = 0x10 + 4 * bar.number;
        let high = if bar.wide { self.read(at + 4) } else { 0 };
        u64::from(self.read(at) & !0xf) | u64::from(high) << 32
    }

    /// Moves a BAR. The function must not decode memory meanwhile.
    pub(crate) fn move_to(self, bar: Bar, address: u64) {
        let at = 0x10 + 4 * bar.number;
        self.write(at, address as u32);
        if bar.wide {
            self.write(at + 4, (address >> 32) as u32);
        }
    }

    /// Places each BAR that has no place, and lets the function decode memory and be a bus master.
    pub(crate) fn start(self) -> Outcome<[Option<Bar>; 6]> {
        let bars = self.bars()?;
        for bar in bars.iter().flatten() {
            if self.place(*bar) == 0 {
                self.move_to(*bar, WINDOW + (u64::from(self.0) * 8 + u64::from(bar.number)) * ROOM);
            }
            require!(map_gib(self.place(*bar)), "a BAR at {:#x}", self.place(*bar));
        }
        self.enable(true);
        Ok(bars)
    }
}

/// Every function that is there now.
pub(crate) fn functions() -> impl Iterator<Item = Function> {
    (1..32).map(Function).filter(|function| function.is_here())
}

/// Both ways to configuration space show the same bus: a host bridge and the functions in their slots.
pub(crate) fn check(machine: &mut Machine) -> Outcome {
    let bridge = Function(0);
    if !bridge.is_here() {
        skip!("no PCI");
    }
    require!(bridge.read(8) >> 16 == 0x0600, "slot 0 is no host bridge but class {:#x}", bridge.read(8) >> 8);
    let mut list = Text::new(format_args!("host bridge"));
    for function in functions() {
        let (id, class) = (function.read(0), function.read(8) >> 8);
        let _ = write!(list, ", slot {} {:04x}:{:04x} class {class:06x}", function.0, id & 0xffff, id >> 16);
    }
    if machine.tables.ecam != 0 {
        for slot in 0..32u8 {
            for register in [0, 8, 0x2c, 0x34] {
                let by_memory =
                    peek::<u32>(machine.tables.ecam + u64::from(slot) * 0x8000 + u64::from(register));
                let by_ports = Function(slot).read(register);
                require!(
                    by_memory == by_ports,
                    "slot {slot} register {register:#x}: {by_memory:#x} by memory, {by_ports:#x} by ports"
                );
            }
        }
    }
    let nobody = Function(31);
    if !nobody.is_here() {
        nobody.write(0x10, 0x1234_0000);
        require!(nobody.read(0x10) == u32::MAX, "an empty slot keeps what is written");
    }
    Ok(list)
}

/// BARs move: the registers are at the new place and no longer at the old one, below 4 GiB and far above.
pub(crate) fn bars(_: &mut Machine) -> Outcome {
    let Some(function) = functions().next() else { skip!("no function") };
    let bars = function.start()?;
    let Some(bar) = bars.iter().flatten().next() else { skip!("no memory BAR") };
    let first = function.place(*bar);
    let value = peek::<u32>(first + 8);
    require!(value != u32::MAX, "nothing answers at {first:#x}");
    let half = 1u64 << (cpuid(0x8000_0008, 0)[0] & 0xff).clamp(36, 40) >> 1;
    let mut places = [WINDOW + (256 + 8) * ROOM, half + (1 << 29), first];
    if !bar.wide {
        places[1] = WINDOW + (256 + 16) * ROOM;
    }
    let mut old = first;
    for place in places {
        require!(map_gib(place), "no table for {place:#x}");
        function.enable(false);
        require!(peek::<u32>(old + 8) == u32::MAX, "{old:#x} answers while decoding is off");
        function.move_to(*bar, place);
        function.enable(true);
        require!(peek::<u32>(place + 8) == value, "BAR {} does not answer at {place:#x}", bar.number);
        require!(peek::<u32>(old + 8) == u32::MAX, "{old:#x} still answers");
        old = place;
    }
    Ok(text!(
        "BAR {} of {} KiB at {first:#x}, {:#x}, {:#x} and back",
        bar.number,
        bar.size >> 10,
        places[0],
        places[1]
    ))
}

/// A function's table of message interrupts.
pub(crate) struct Messages {
    function: Function,
    capability: u8,
    table: u64,
    /// Entries.
    pub(crate) count: u32,
}

impl Messages {
    /// Finds the table and switches it on with every entry masked.
    pub(crate) fn enable(function: Function, bars: &[Option<Bar>; 6]) -> Outcome<Self> {
        let Some(at) = function.capability(0x11) else { fail!("slot {} has no MSI-X", function.0) };
        let (control, table) = (function.read(at) >> 16, function.read(at + 4));
        let Some(bar) = bars.iter().flatten().find(|bar| u32::from(bar.number) == table & 7) else {
            fail!("the MSI-X table is in BAR {}", table & 7)
        };
        let messages = Self {
            function,
            capability: at,
            table: function.place(*bar) + u64::from(table & !7),
            count: (control & 0x7ff) + 1,
        };
        function.write(at, 0xc000 << 16);
        (0..messages.count).for_each(|entry| messages.mask(entry, true));
        function.write(at, 0x8000 << 16);
        Ok(messages)
    }

    /// Sends an entry's interrupts to this processor as `vector`, unmasked.
    pub(crate) fn connect(&self, entry: u32, vector: u8) {
        let at = self.table + 16 * u64::from(entry);
        poke(at, 0xfee0_0000 | apic::id() << 12);
        poke(at + 4, 0u32);
        poke(at + 8, u32::from(vector));
        self.mask(entry, false);
    }

    /// Holds an entry's interrupts back, or lets them go.
    pub(crate) fn mask(&self, entry: u32, masked: bool) {
        poke(self.table + 16 * u64::from(entry) + 12, u32::from(masked));
    }

    /// Switches all of them off.
    pub(crate) fn disable(&self) {
        self.function.write(self.capability, 0);
    }
}
