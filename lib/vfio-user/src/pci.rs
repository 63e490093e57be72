//! Configuration space of a PCI Express function with MSI-X and function level reset, and the numbers of VFIO's
//! regions and interrupt indexes for PCI.

/// Region of BAR 0; BAR n is region n.
pub const BAR0: u32 = 0;
/// Region of configuration space.
pub const CONFIG: u32 = 7;
/// Regions of a PCI function: BARs 0 to 5, ROM, configuration space, VGA.
pub const REGIONS: u32 = 9;
/// Interrupt index of the pin.
pub const INTX: u32 = 0;
/// Interrupt index of MSI.
pub const MSI: u32 = 1;
/// Interrupt index of MSI-X.
pub const MSIX: u32 = 2;
/// Interrupt index of error reports. Give it a count of 1: QEMU warns otherwise.
pub const ERROR: u32 = 3;
/// Interrupt index by which a device asks to be removed.
pub const REQUEST: u32 = 4;
/// Interrupt indexes of a PCI function.
pub const IRQS: u32 = 5;
/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const BARS: usize = 0x10;
const EXPRESS: usize = 0x40;
const DEVICE_CONTROL: usize = EXPRESS + 8;
const MSIX_CAPABILITY: usize = 0x80;
/// Where a device's own capabilities begin, and where the last one must have ended.
const OWN_CAPABILITIES: usize = 0x90;
const LEGACY_END: usize = 0x100;
/// Initiate Function Level Reset, in the high byte of Device Control (PCI Express 4.0, 7.5.3.4).
const FLR: u8 = 0x80;

/// Who the function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and subsystem vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem device.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
}

/// A 64-bit memory BAR; it takes its own slot and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// 0, 2 or 4.
    pub index: u8,
    /// Bytes: a power of two, 16 at least.
    pub size: u64,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

/// Where the MSI-X structures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msix {
    /// 1 to 2048.
    pub vectors: u16,
    /// BAR of both structures.
    pub bar: u8,
    /// Offset of the table in the BAR, a multiple of 8. Hypervisors keep the table themselves.
    pub table: u32,
    /// Offset of the pending bits in the BAR, a multiple of 8.
    pub pending: u32,
}

/// What a write to configuration space asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigWrite {
    /// Nothing more.
    Done,
    /// Reset the function, then call [`ConfigSpace::reset`].
    FunctionLevelReset,
}

/// Type 0 configuration space.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    /// Bits that the driver may change.
    writable: Box<[u8; CONFIG_SIZE]>,
    initial: Box<[u8; CONFIG_SIZE]>,
    /// The last capability, and where the next one goes.
    last: usize,
    next: usize,
}

impl ConfigSpace {
    /// The state after power on. BARs are sized as PCI does it: write ones, read the size mask back.
    pub fn new(identity: &Identity, bars: &[Bar], msix: &Msix) -> Self {
        let empty = || Box::new([0; CONFIG_SIZE]);
        let mut space = Self {
            bytes: empty(),
            writable: empty(),
            initial: empty(),
            last: MSIX_CAPABILITY,
            next: OWN_CAPABILITIES,
        };
        let [base, sub, interface] = identity.class;
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        // I/O, memory, bus master, parity, SERR, pin off.
        space.allow(COMMAND, &0x0547u16.to_le_bytes());
        // Status: there are capabilities.
        space.put(0x06, &0x0010u16.to_le_bytes());
        space.put(0x08, &[identity.revision, interface, sub, base]);
        // Cache line size and interrupt line are the driver's own notes.
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space.put(0x2c, &identity.vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        for bar in bars {
            let at = BARS + 4 * usize::from(bar.index);
            space.put(at, &[if bar.prefetchable { 0b1100 } else { 0b0100 }]);
            space.allow(at, &(!(bar.size.next_power_of_two().max(16) - 1)).to_le_bytes());
        }
        space.put(0x34, &[0x40]);
        space.put_express();
        space.put_msix(msix);
        space.initial = space.bytes.clone();
        space
    }

    /// PCI Express capability, version 2, endpoint (PCI Express 4.0, 7.5.3).
    fn put_express(&mut self) {
        self.put(EXPRESS, &[0x10, 0x80]);
        self.put(EXPRESS + 2, &0x0002u16.to_le_bytes());
        // Device Capabilities: payload 256 bytes, role-based errors, function level reset.
        self.put(EXPRESS + 4, &0x1000_8001u32.to_le_bytes());
        // Device Control: relaxed ordering, no snoop, read requests of 512 bytes.
        self.put(DEVICE_CONTROL, &0x2810u16.to_le_bytes());
        self.allow(DEVICE_CONTROL, &0x7fffu16.to_le_bytes());
        // Link: 8 GT/s, four lanes; up.
        self.put(EXPRESS + 0x0c, &0x0000_0043u32.to_le_bytes());
        self.allow(EXPRESS + 0x10, &0x00c3u16.to_le_bytes());
        self.put(EXPRESS + 0x12, &0x0043u16.to_le_bytes());
        // Completion timeout can be disabled; link speeds up to 8 GT/s.
        self.put(EXPRESS + 0x24, &0x0000_0010u32.to_le_bytes());
        self.allow(EXPRESS + 0x28, &0x0010u16.to_le_bytes());
        self.put(EXPRESS + 0x2c, &0x0000_000eu32.to_le_bytes());
        self.put(EXPRESS + 0x30, &0x0003u16.to_le_bytes());
    }

    /// MSI-X capability (PCI 3.0, 6.8.2).
    fn put_msix(&mut self, msix: &Msix) {
        self.put(MSIX_CAPABILITY, &[0x11, 0]);
        self.put(MSIX_CAPABILITY + 2, &(msix.vectors.clamp(1, 2048) - 1).to_le_bytes());
        self.allow(MSIX_CAPABILITY + 2, &0xc000u16.to_le_bytes());
        let bar = u32::from(msix.bar & 7);
        self.put(MSIX_CAPABILITY + 4, &(msix.table & !7 | bar).to_le_bytes());
        self.put(MSIX_CAPABILITY + 8, &(msix.pending & !7 | bar).to_le_bytes());
    }

    /// Adds a capability: its id, what comes behind the link to the next one, and which bits of that the driver may change.
    /// Gives its place; none if there is no room for it below 256.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u16> {
        let at = self.next;
        let end = at.checked_add(2)?.checked_add(body.len())?.next_multiple_of(4);
        if end > LEGACY_END {
            return None;
        }
        self.put(self.last + 1, &[u8::try_from(at).ok()?]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        (self.last, self.next) = (at, end);
        self.initial = self.bytes.clone();
        u16::try_from(at).ok()
    }

    /// Reads; beyond the end are zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        for (byte, value) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *value;
        }
    }

    /// Writes what may be written and ignores the rest.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> ConfigWrite {
        let mut result = ConfigWrite::Done;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, value) in data.iter().enumerate() {
            let at = offset.saturating_add(at);
            let (Some(byte), Some(writable)) = (self.bytes.get_mut(at), self.writable.get(at)) else { break };
            *byte = *byte & !writable | value & writable;
            if at == DEVICE_CONTROL + 1 && value & FLR != 0 {
                result = ConfigWrite::FunctionLevelReset;
            }
        }
        result
    }

    /// Back to the state after power on.
    pub fn reset(&mut self) {
        self.bytes.clone_from(&self.initial);
    }

    /// The driver allows the function to reach memory and to raise MSI-X.
    pub fn bus_master(&self) -> bool {
        self.bytes.get(COMMAND).is_some_and(|command| command & 0x04 != 0)
    }

    fn put(&mut self, at: usize, values: &[u8]) {
        for (byte, value) in self.bytes.iter_mut().skip(at).zip(values) {
            *byte = *value;
        }
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        for (byte, bits) in self.writable.iter_mut().skip(at).zip(bits) {
            *byte = *bits;
        }
    }
}
