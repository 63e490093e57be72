//! Base address registers (PCI Local Bus 3.0 §6.2.5.1), kept here and not by the card.

use super::Unfit;
use std::ops::Range;

/// Registers of a type 0 header.
pub const COUNT: usize = 6;
const IO: u32 = 1;
const WIDTH: u32 = 0b110;
const WIDTH_64: u32 = 0b100;
const FLAGS: u32 = 0xF;
/// The least that a memory BAR decodes, in bytes.
const LEAST: u64 = 16;
/// The largest of a card: it fits twice into the window for 64-bit BARs of any processor.
pub const MOST: u64 = 1 << 34;
/// The largest of the host's hardware: it fits twice into the window of a processor with 40 address bits.
pub const MOST_HARDWARE: u64 = 1 << 38;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Absent,
    Low,
    Wide,
    /// The upper half of the one before.
    Upper,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bar {
    kind: Kind,
    flags: u32,
    size: u64,
    address: u64,
}

/// The six registers of one function. I/O BARs are not offered to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bars([Bar; COUNT]);

impl Bars {
    /// `registers` as the card has them after its reset, `sizes` of its regions in bytes, 0 where there is none; none above
    /// `most`.
    pub fn new(registers: [u32; COUNT], sizes: [u64; COUNT], most: u64) -> Result<Self, Unfit> {
        let mut bars = [Bar::default(); COUNT];
        let mut upper = false;
        for ((bar, register), size) in bars.iter_mut().zip(registers).zip(sizes) {
            if std::mem::take(&mut upper) {
                bar.kind = Kind::Upper;
            } else if size > 0 && register & IO == 0 {
                upper = register & WIDTH == WIDTH_64;
                let kind = if upper { Kind::Wide } else { Kind::Low };
                let most = if upper { most } else { 1 << 28 };
                if size > most {
                    return Err(Unfit::Bar);
                }
                let size = size.next_power_of_two().max(LEAST);
                *bar = Bar { kind, flags: register & FLAGS, size, address: 0 };
            }
        }
        if upper { Err(Unfit::Bar) } else { Ok(Self(bars)) }
    }

    /// What the guest reads.
    pub fn read(&self, register: usize) -> u32 {
        let bar = self.bar(register);
        match bar.kind {
            Kind::Absent => 0,
            Kind::Low | Kind::Wide => low(bar.address) | bar.flags,
            Kind::Upper => low(self.bar(register.wrapping_sub(1)).address >> 32),
        }
    }

    /// What the guest writes. Bits below the size stay 0, which is how it learns the size.
    pub fn write(&mut self, register: usize, value: u32) {
        let (at, address) = match self.bar(register).kind {
            Kind::Absent => return,
            Kind::Low => (register, u64::from(value)),
            Kind::Wide => (register, self.bar(register).address >> 32 << 32 | u64::from(value)),
            Kind::Upper => {
                let at = register.wrapping_sub(1);
                (at, u64::from(value) << 32 | u64::from(low(self.bar(at).address)))
            }
        };
        if let Some(bar) = self.0.get_mut(at) {
            bar.address = address & !(bar.size - 1);
        }
    }

    /// Where the guest put a BAR; `None` if there is none, or it would wrap.
    pub fn range(&self, index: usize) -> Option<Range<u64>> {
        let bar = self.bar(index);
        let there = matches!(bar.kind, Kind::Low | Kind::Wide);
        bar.address.checked_add(bar.size).filter(|_| there).map(|end| bar.address..end)
    }

    /// Bytes that a BAR decodes; 0 where there is none.
    pub fn size(&self, index: usize) -> u64 {
        self.bar(index).size
    }

    /// As after a reset.
    pub fn reset(&mut self) {
        self.0.iter_mut().for_each(|bar| bar.address = 0);
    }

    fn bar(&self, index: usize) -> Bar {
        self.0.get(index).copied().unwrap_or_default()
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_learned_by_writing_ones() {
        let mut bars = Bars::new([0xC, 0, 0x8, 1, 0, 0], [0x4000, 0, 0x1800, 0x100, 0, 0], MOST).unwrap();
        for register in 0..COUNT {
            bars.write(register, u32::MAX);
        }
        let read: Vec<u32> = (0..COUNT).map(|register| bars.read(register)).collect();
        assert_eq!(read, [0xFFFF_C00C, u32::MAX, 0xFFFF_E008, 0, 0, 0]);
        bars.write(0, 0x1234_4000);
        bars.write(1, 0x80);
        assert_eq!(bars.range(0), Some(0x80_1234_4000..0x80_1234_8000));
        assert_eq!(bars.range(1), None);
        bars.reset();
        assert_eq!(bars.range(0), Some(0..0x4000));
    }

    #[test]
    fn a_wide_bar_needs_two_registers() {
        assert_eq!(Bars::new([0, 0, 0, 0, 0, 4], [0, 0, 0, 0, 0, 4096], MOST), Err(Unfit::Bar));
        assert_eq!(Bars::new([0; 6], [0x2000_0000, 0, 0, 0, 0, 0], MOST), Err(Unfit::Bar));
        assert_eq!(Bars::new([4, 0, 0, 0, 0, 0], [u64::MAX, 0, 0, 0, 0, 0], MOST), Err(Unfit::Bar));
    }

    #[test]
    fn hardware_may_have_larger_ones() {
        let bars = |most| Bars::new([0xC, 0, 0, 0, 0, 0], [128 << 30, 0, 0, 0, 0, 0], most);
        assert_eq!(bars(MOST), Err(Unfit::Bar));
        let mut bars = bars(MOST_HARDWARE).unwrap();
        bars.write(0, u32::MAX);
        bars.write(1, u32::MAX);
        assert_eq!((bars.read(0), bars.read(1)), (0xC, 0xFFFF_FFE0));
        assert_eq!(Bars::new([4, 0, 0, 0, 0, 0], [u64::MAX, 0, 0, 0, 0, 0], MOST_HARDWARE), Err(Unfit::Bar));
    }

    proptest! {
        #[test]
        fn a_bar_is_always_aligned_to_its_size(
            registers: [u32; COUNT],
            sizes: [u64; COUNT],
            writes in proptest::collection::vec((0..8usize, any::<u32>()), 0..20),
        ) {
            let Ok(mut bars) = Bars::new(registers, sizes.map(|size| size >> 34), MOST) else { return Ok(()) };
            for (register, value) in writes {
                bars.write(register, value);
                for index in 0..COUNT {
                    if let Some(range) = bars.range(index) {
                        prop_assert_eq!(range.start % bars.size(index), 0);
                    }
                }
            }
        }
    }
}
