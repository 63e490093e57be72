//! The registers of a device (virtio 1.3, 4.1.4.3).

use crate::queue::{MAX_QUEUE, Queue};

/// Feature: not the legacy interface. Always offered, and needed.
pub const VERSION_1: u64 = 1 << 32;
/// Feature: addresses are those of the platform's DMA. Always offered.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// No interrupt.
pub(crate) const NO_VECTOR: u16 = 0xffff;
/// Bytes of the registers.
pub(crate) const LENGTH: u32 = 0x40;

const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing more.
    Done,
    /// The driver has reset the device, and the registers are as at first.
    Reset,
}

/// The registers.
#[derive(Debug, Clone)]
pub struct Transport {
    features: [u32; 2],
    accepted: [u32; 2],
    selected_device: u32,
    selected_driver: u32,
    config_vector: u16,
    status: u8,
    selected_queue: u16,
    queues: Vec<Queue>,
    vectors: u16,
}

impl Transport {
    /// A device with queues of at most so many entries (powers of two up to [`MAX_QUEUE`]) and so many interrupts.
    pub fn new(features: u64, queues: &[u16], vectors: u16) -> Self {
        let queue = |largest: &u16| Queue::new(largest.next_power_of_two().min(MAX_QUEUE));
        Self {
            features: halves(features | VERSION_1 | ACCESS_PLATFORM),
            accepted: [0; 2],
            selected_device: 0,
            selected_driver: 0,
            config_vector: NO_VECTOR,
            status: 0,
            selected_queue: 0,
            queues: queues.iter().map(queue).collect(),
            vectors,
        }
    }

    /// As after power on.
    pub fn reset(&mut self) {
        let queues: Vec<u16> = self.queues.iter().map(|queue| queue.largest).collect();
        *self = Self { features: self.features, ..Self::new(0, &queues, self.vectors) };
    }

    /// Whether the driver works with the device.
    pub fn runs(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// The driver has done what makes no sense: nothing goes on until it resets the device. Gives the interrupt by which
    /// it is told.
    pub fn needs_reset(&mut self) -> Option<u16> {
        self.status |= NEEDS_RESET;
        Some(self.config_vector).filter(|vector| *vector != NO_VECTOR && self.status & DRIVER_OK != 0)
    }

    /// A queue that the driver has enabled.
    pub fn queue(&mut self, index: u16) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(index)).filter(|queue| queue.enabled)
    }

    /// The interrupt of a queue.
    pub fn vector(&self, index: u16) -> Option<u16> {
        let queue = self.queues.get(usize::from(index))?;
        Some(queue.vector).filter(|vector| *vector != NO_VECTOR)
    }

    /// Reads registers; beyond the last are zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let half = |halves: [u32; 2], select: u32| halves.get(select as usize).copied().unwrap_or_default();
        let none = Queue::new(0);
        let queue = self.queues.get(usize::from(self.selected_queue)).unwrap_or(&none);
        let mut bytes = Vec::with_capacity(LENGTH as usize);
        bytes.extend(self.selected_device.to_le_bytes());
        bytes.extend(half(self.features, self.selected_device).to_le_bytes());
        bytes.extend(self.selected_driver.to_le_bytes());
        bytes.extend(half(self.accepted, self.selected_driver).to_le_bytes());
        bytes.extend(self.config_vector.to_le_bytes());
        bytes.extend(u16::try_from(self.queues.len()).unwrap_or(0).to_le_bytes());
        bytes.extend([self.status, 0]);
        bytes.extend(self.selected_queue.to_le_bytes());
        bytes.extend(queue.size.to_le_bytes());
        bytes.extend(queue.vector.to_le_bytes());
        bytes.extend(u16::from(queue.enabled).to_le_bytes());
        // All queues are notified at one address.
        bytes.extend(0u16.to_le_bytes());
        bytes.extend(
            [queue.descriptors, queue.driver, queue.device].iter().flat_map(|ring| ring.to_le_bytes()),
        );
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *value;
        }
    }

    /// Writes one register, or half of a ring's address; other writes are ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Written {
        let value = data.iter().rev().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let (short, [long, _]) = (low(value), halves(value));
        match (offset, data.len()) {
            (0x00, 4) => self.selected_device = long,
            (0x08, 4) => self.selected_driver = long,
            (0x0c, 4) if self.status & FEATURES_OK == 0 => {
                let half = self.accepted.get_mut(self.selected_driver as usize);
                half.into_iter().for_each(|half| *half = long);
            }
            (0x10, 2) => self.config_vector = self.valid_vector(short),
            (0x14, 1) => return self.write_status(value.to_le_bytes()[0]),
            (0x16, 2) => self.selected_queue = short,
            _ => self.write_queue(offset, data.len(), value),
        }
        Written::Done
    }

    fn valid_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    fn write_status(&mut self, status: u8) -> Written {
        if status == 0 {
            self.reset();
            return Written::Reset;
        }
        let [[low, high], [low_offered, high_offered]] = [self.accepted, self.features];
        let refused =
            low & !low_offered != 0 || high & !high_offered != 0 || high & halves(VERSION_1)[1] == 0;
        let status = if refused { status & !FEATURES_OK } else { status };
        // The driver adds bits, and cannot take back that it must reset.
        self.status |= status & !NEEDS_RESET;
        Written::Done
    }

    /// A queue is set up once, before it is enabled.
    fn write_queue(&mut self, offset: u64, length: usize, value: u64) {
        let vector = self.valid_vector(low(value));
        let Some(queue) = self.queues.get_mut(usize::from(self.selected_queue)) else { return };
        if (offset, length) == (0x1a, 2) {
            queue.vector = vector;
        }
        if queue.enabled {
            return;
        }
        let ring = |ring: &mut u64, high: bool| {
            *ring = match (length, high) {
                (8, false) => value,
                (4, false) => *ring & !0xffff_ffff | value,
                (4, true) => *ring & 0xffff_ffff | value << 32,
                _ => *ring,
            }
        };
        match offset {
            0x18 if length == 2 => {
                let size = low(value);
                if size.is_power_of_two() && size <= queue.largest {
                    queue.size = size;
                }
            }
            0x1c if length == 2 => queue.enabled = value == 1,
            0x20 | 0x24 => ring(&mut queue.descriptors, offset == 0x24),
            0x28 | 0x2c => ring(&mut queue.driver, offset == 0x2c),
            0x30 | 0x34 => ring(&mut queue.device, offset == 0x34),
            _ => {}
        }
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn low(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}
