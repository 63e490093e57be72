//! What a card's configuration space says of its function, and what of it the guest does not get to see.

use super::Unfit;

/// Bytes of the part that has a fixed form (PCI Local Bus 3.0 §6.1).
pub const HEADER: usize = 256;
/// Command and status.
pub const COMMAND: u16 = 0x04;
/// Memory space, in the command register.
pub const MEMORY_SPACE: u8 = 0x02;
/// First base address register.
pub const BARS: u16 = 0x10;
/// Expansion ROM; never offered.
pub const ROM: u16 = 0x30;
/// Interrupt line: a note of the driver's.
pub const INTERRUPT_LINE: u16 = 0x3C;
/// Most MSI-X vectors of one function: 31 functions with as many as this fit into KVM's routing table.
pub const MAX_VECTORS: u16 = 128;

const STATUS: usize = 0x06;
const CAPABILITIES: u8 = 0x10;
const HEADER_TYPE: u16 = 0x0E;
const POINTER: usize = 0x34;
const PIN: u16 = 0x3D;
/// Capabilities that are passed on: power management, vendor specific, PCI Express, MSI-X.
const KEPT: [u8; 4] = [0x01, 0x09, EXPRESS, MSIX];
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;

/// Where a part of the MSI-X structure lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The BAR.
    pub bar: usize,
    /// Offset in it, in bytes.
    pub offset: u64,
}

/// The MSI-X capability (PCI Local Bus 3.0 §6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixCapability {
    /// Where it is in configuration space.
    pub at: u16,
    /// Vectors, 1 to [`MAX_VECTORS`].
    pub vectors: u16,
    /// The table.
    pub table: Place,
    /// The pending bits.
    pub pending: Place,
}

/// What the hypervisor needs to know of a function's configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// MSI-X.
    pub msix: Option<MsixCapability>,
    /// Where the device control register of PCI Express is, if the function can be reset by it.
    pub device_control: Option<u16>,
    /// Bytes that the guest reads instead of the card's.
    fixed: Vec<(u16, u8)>,
}

impl Header {
    /// Reads the first 256 bytes.
    pub fn parse(config: &[u8; HEADER]) -> Result<Self, Unfit> {
        let byte = |at: usize| config.get(at).copied().unwrap_or_default();
        let dword = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        if byte(usize::from(HEADER_TYPE)) & 0x7F != 0 || dword(0) & 0xFFFF == 0xFFFF {
            return Err(Unfit::Header);
        }
        // One function, no interrupt pin.
        let mut header = Self { msix: None, device_control: None, fixed: vec![(HEADER_TYPE, 0), (PIN, 0)] };
        let (mut link, mut at) = (POINTER, byte(POINTER) & !3);
        if byte(STATUS) & CAPABILITIES == 0 {
            at = 0;
        }
        let mut seen = [false; HEADER];
        // A card may send the walk in a circle.
        while at >= 0x40 && !std::mem::replace(&mut seen[usize::from(at)], true) {
            let here = usize::from(at);
            if KEPT.contains(&byte(here)) {
                header.fix(link, at);
                link = here + 1;
                match byte(here) {
                    MSIX if header.msix.is_none() => header.msix = Some(msix(at, dword(here), &dword)?),
                    EXPRESS if dword(here + 4) & 1 << 28 != 0 => {
                        header.device_control = Some(u16::from(at) + 8);
                    }
                    _ => {}
                }
            }
            at = byte(here + 1) & !3;
        }
        header.fix(link, 0);
        Ok(header)
    }

    /// Puts what the guest must not see otherwise over `data`, read at `offset`.
    pub fn cover(&self, offset: u16, data: &mut [u8]) {
        for (at, value) in &self.fixed {
            if let Some(byte) = at.checked_sub(offset).and_then(|at| data.get_mut(usize::from(at))) {
                *byte = *value;
            }
        }
    }

    fn fix(&mut self, at: usize, value: u8) {
        self.fixed.extend(u16::try_from(at).map(|at| (at, value)));
    }
}

fn msix(at: u8, first: u32, dword: &impl Fn(usize) -> u32) -> Result<MsixCapability, Unfit> {
    let place = |dword: u32| {
        let bar = usize::try_from(dword & 7).unwrap_or(usize::MAX);
        if bar < super::bar::COUNT {
            Ok(Place { bar, offset: u64::from(dword & !7) })
        } else {
            Err(Unfit::Msix)
        }
    };
    let here = usize::from(at);
    let vectors = u16::try_from(first >> 16 & 0x7FF).unwrap_or_default() + 1;
    Ok(MsixCapability {
        at: u16::from(at),
        vectors: vectors.min(MAX_VECTORS),
        table: place(dword(here + 4))?,
        pending: place(dword(here + 8))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vfio_user::pci::{Bar, ConfigSpace, Identity, Msix};

    fn card() -> [u8; HEADER] {
        let identity =
            Identity { vendor: 0x1d0f, device: 0x8061, subsystem: 0, revision: 0, class: [1, 8, 2] };
        let msix = Msix { vectors: 33, bar: 0, table: 0x2000, pending: 0x3000 };
        let space =
            ConfigSpace::new(&identity, &[Bar { index: 0, size: 0x4000, prefetchable: false }], &msix);
        let mut config = [0; HEADER];
        space.read(0, &mut config);
        config
    }

    #[test]
    fn a_cards_function_is_understood() {
        let header = Header::parse(&card()).unwrap();
        let (table, pending) = (Place { bar: 0, offset: 0x2000 }, Place { bar: 0, offset: 0x3000 });
        assert_eq!(header.msix, Some(MsixCapability { at: 0x80, vectors: 33, table, pending }));
        assert_eq!(header.device_control, Some(0x48));
    }

    #[test]
    fn other_capabilities_are_hidden() {
        let mut config = card();
        // MSI between PCI Express and MSI-X, and a loop at the end.
        (config[0x41], config[0xC0], config[0xC1], config[0x81]) = (0xC0, 0x05, 0x80, 0x40);
        let header = Header::parse(&config).unwrap();
        let mut seen = config;
        header.cover(0, &mut seen);
        assert_eq!((seen[0x34], seen[0x41]), (0x40, 0x80));
        let mut part = [0xEE; 2];
        header.cover(0x3C, &mut part);
        assert_eq!(part, [0xEE, 0]);
    }

    #[test]
    fn bridges_and_nobody_are_refused() {
        let mut config = card();
        config[0x0E] = 1;
        assert_eq!(Header::parse(&config), Err(Unfit::Header));
        assert_eq!(Header::parse(&[0xFF; HEADER]), Err(Unfit::Header));
        let mut config = card();
        config[0x84] = 7;
        assert_eq!(Header::parse(&config), Err(Unfit::Msix));
    }

    proptest! {
        #[test]
        fn what_the_guest_walks_ends(bytes: [u8; 32], noise in proptest::collection::vec(0..HEADER, 0..64)) {
            let mut config = card();
            for (at, byte) in noise.into_iter().zip(bytes.iter().cycle()) {
                config[at] = *byte;
            }
            if let Ok(header) = Header::parse(&config) {
                header.cover(0, &mut config);
                let (mut at, mut steps) = (config[0x34], 0);
                while at != 0 {
                    at = config[usize::from(at) + 1];
                    steps += 1;
                    prop_assert!(steps <= HEADER);
                }
            }
        }
    }
}
