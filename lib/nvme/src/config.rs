//! What a controller is told when it is made.

/// What a controller shows and how much it takes at once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Serial number, 1 to 20 printable ASCII bytes: `vol` and 17 hexadecimal digits, without a dash.
    pub serial: String,
    /// Block-device name that the tenant asked for, 1 to 32 printable ASCII bytes.
    pub device_name: String,
    /// Size of namespace 1 in logical blocks, at least 1.
    pub blocks: u64,
    /// Size of a logical block in bytes: 512 or 4096. EC2 shows 512.
    pub block_size: u32,
    /// I/O queue pairs on offer, 1 to 63. The function has one MSI-X vector more than that.
    pub io_queues: u16,
    /// I/O commands that the backend holds at once, 1 to 65535.
    pub max_in_flight: u16,
    /// Whether a completed write may still be lost by a power failure until the next flush.
    pub volatile_write_cache: bool,
}

/// Why a [`Config`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Serial number.
    #[error("the serial number must be 1 to 20 printable ASCII bytes")]
    Serial,
    /// Device name.
    #[error("the block-device name must be 1 to 32 printable ASCII bytes")]
    DeviceName,
    /// Block size or count.
    #[error("the volume must have at least one block of 512 or 4096 bytes and less than 2^63 bytes")]
    Size,
    /// Queues or commands in flight.
    #[error("give 1 to 63 I/O queue pairs and at least one command in flight")]
    Queues,
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let printable = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        if !printable(&self.serial, 20) {
            return Err(ConfigError::Serial);
        }
        if !printable(&self.device_name, 32) {
            return Err(ConfigError::DeviceName);
        }
        let bytes = self.blocks.checked_mul(u64::from(self.block_size));
        let fits = bytes.is_some_and(|bytes| bytes > 0 && i64::try_from(bytes).is_ok());
        if !matches!(self.block_size, 512 | 4096) || !fits {
            return Err(ConfigError::Size);
        }
        if !(1..=63).contains(&self.io_queues) || self.max_in_flight == 0 {
            return Err(ConfigError::Queues);
        }
        Ok(())
    }

    /// MSI-X vectors of the function: one for the admin queue, one for each I/O queue pair.
    pub fn vectors(&self) -> u16 {
        self.io_queues + 1
    }

    pub(crate) fn block_shift(&self) -> u32 {
        self.block_size.trailing_zeros()
    }
}
