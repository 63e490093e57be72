//! The management controller's own start, when its reset line is let go: it reads its firmware over SPI and which board
//! it is on over I²C, as a master of the security chip's. What it runs is this program: the firmware is a stand-in too,
//! and says so in its first bytes.

use crate::buses::Wire;
use std::path::PathBuf;
use wire::{Fault, chip::Transaction};

/// How its firmware begins.
const FIRMWARE: &[u8] = parts::BMC_FIRMWARE;
/// The flash that the chip selects for it, and the memory that says which board this is.
const FLASH: u8 = 1;
const IDENTITY: u8 = 0x50;

/// The management controller's side of the buses. None on a board where it has no flash: it starts from itself.
#[derive(Debug)]
pub(crate) struct Bmc(Option<Wire>);

impl Bmc {
    /// With the chip's socket for its buses.
    pub(crate) fn new(chip: Option<PathBuf>) -> Self {
        Self(chip.map(Wire::new))
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<(), Fault> {
        let Some(wire) = &mut self.0 else { return Ok(()) };
        let read = u16::try_from(FIRMWARE.len()).unwrap_or(u16::MAX);
        let firmware = wire.transact(&Transaction::Spi { select: FLASH, out: vec![0x03, 0, 0, 0], read });
        if firmware.is_none_or(|(bytes, _)| bytes != FIRMWARE) {
            return Err(Fault::new(
                "board.bmc-firmware",
                "the management controller does not find firmware of its own in its flash",
            ));
        }
        let identity = wire.transact(&Transaction::I2c { address: IDENTITY, out: vec![0], read: 256 });
        match identity {
            Some((bytes, true)) => tracing::info!(board = maker(&bytes), "the management controller starts"),
            _ => tracing::warn!("the management controller does not find which board it is on"),
        }
        Ok(())
    }
}

/// The maker's name (IPMI's FRU information: the board area's first field).
fn maker(identity: &[u8]) -> String {
    let area = identity.get(3).map_or(0, |place| usize::from(*place) * 8);
    let field = identity.get(area + 6..).and_then(<[u8]>::split_first);
    let text = field.and_then(|(kind, rest)| rest.get(..usize::from(kind & 0x3f)));
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maker_is_read_and_nonsense_is_survived() {
        let memory = [&[1, 0, 0, 1, 0, 0, 0, 254][..], &[1, 1, 25, 0, 0, 0, 0xc3], b"abcdef"].concat();
        assert_eq!(maker(&memory), "abc");
        for length in 0..memory.len() {
            assert!(maker(&memory[..length]).len() <= 3);
        }
        assert_eq!(maker(&[0xff; 256]), "");
    }
}
