//! Random numbers straight from the kernel.

use hpke::rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// Gives `hpke` its ephemeral keys. What `hpke` would take by itself asks a loader of libraries where the system call is,
/// and in a static program opens a device instead, which no sandbox lets it.
pub(crate) fn random() -> UnwrapErr<Kernel> {
    UnwrapErr(Kernel)
}

pub(crate) struct Kernel;

/// Up to so many bytes come whole.
const WHOLE: usize = 256;

impl TryRng for Kernel {
    type Error = Errno;

    fn try_next_u32(&mut self) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Errno> {
        bytes.chunks_mut(WHOLE).try_for_each(|piece| match getrandom(&mut *piece, GetRandomFlags::empty())? {
            got if got == piece.len() => Ok(()),
            _ => Err(Errno::IO),
        })
    }
}

impl TryCryptoRng for Kernel {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_filled() {
        let mut seen = [0; 3 * WHOLE + 1];
        for _ in 0..8 {
            let mut bytes = [0; 3 * WHOLE + 1];
            Kernel.try_fill_bytes(&mut bytes).unwrap();
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|byte| *byte != 0));
        assert_ne!(Kernel.try_next_u64().unwrap(), Kernel.try_next_u64().unwrap());
        assert_ne!([(); 4].map(|()| Kernel.try_next_u32().unwrap()), [0; 4]);
    }
}
