//! The registers of one instance.

use aws_lc_rs::digest::{Context, SHA384};

/// Number of registers.
pub const PCRS: u16 = 32;
/// Registers that nobody extends once the instance has started: those below this.
pub const LOCKED_AT_START: u16 = 16;
/// Most bytes that a register is extended by at a time.
pub const MAX_EXTENSION: usize = 512;

const LENGTH: usize = 48;

/// Why a register was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PcrError {
    /// There is no such register.
    #[error("there are registers 0 to 31 only")]
    Index,
    /// It is locked.
    #[error("the register is locked until the instance's next start")]
    Locked,
    /// More than [`MAX_EXTENSION`] bytes.
    #[error("a register is extended by at most {MAX_EXTENSION} bytes: hash what is longer")]
    TooLong,
}

/// 32 SHA-384 registers, at first zero and open. A locked register stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bank {
    values: [[u8; LENGTH]; PCRS as usize],
    locked: u32,
}

impl Default for Bank {
    fn default() -> Self {
        Self { values: [[0; LENGTH]; PCRS as usize], locked: 0 }
    }
}

impl Bank {
    /// Whether a register is locked, and its value.
    pub fn describe(&self, index: u16) -> Result<(bool, &[u8; LENGTH]), PcrError> {
        let value = self.values.get(usize::from(index)).ok_or(PcrError::Index)?;
        Ok((self.locked & 1 << index != 0, value))
    }

    /// Makes a register's value SHA-384(value ‖ data), and gives it.
    pub fn extend(&mut self, index: u16, data: &[u8]) -> Result<&[u8; LENGTH], PcrError> {
        if self.describe(index)?.0 {
            return Err(PcrError::Locked);
        }
        if data.len() > MAX_EXTENSION {
            return Err(PcrError::TooLong);
        }
        let value = self.values.get_mut(usize::from(index)).ok_or(PcrError::Index)?;
        let mut hash = Context::new(&SHA384);
        hash.update(value);
        hash.update(data);
        for (byte, new) in value.iter_mut().zip(hash.finish().as_ref()) {
            *byte = *new;
        }
        Ok(value)
    }

    /// Locks a register that is not locked yet.
    pub fn lock(&mut self, index: u16) -> Result<(), PcrError> {
        match self.describe(index)? {
            (true, _) => Err(PcrError::Locked),
            (false, _) => {
                self.locked |= 1 << index;
                Ok(())
            }
        }
    }

    /// Locks the first `count` registers, whether or not some are.
    pub fn lock_first(&mut self, count: u16) -> Result<(), PcrError> {
        if count > PCRS {
            return Err(PcrError::Index);
        }
        (0..count).for_each(|index| self.locked |= 1 << index);
        Ok(())
    }

    /// The locked registers, ascending, with their values.
    pub fn locked(&self) -> impl Iterator<Item = (u16, &[u8; LENGTH])> {
        (0..PCRS).zip(&self.values).filter(|(index, _)| self.locked & 1 << index != 0)
    }
}
