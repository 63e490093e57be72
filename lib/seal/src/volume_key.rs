//! The key of a volume.

use crate::{KeyError, Secret};
use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};

/// A 512-bit XTS-AES-256 key: the half for the data, then the half for the tweak. The halves differ.
pub struct VolumeKey(Secret<64>);

impl VolumeKey {
    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = Secret::zeroed()?;
        rand::fill(secret.expose_mut()).map_err(|_| KeyError::Random)?;
        Self::new(secret)
    }

    /// Takes a key that came from elsewhere. Refuses one with equal halves.
    pub fn new(secret: Secret<64>) -> Result<Self, KeyError> {
        let (data, tweak) = secret.expose().split_at(32);
        match verify_slices_are_equal(data, tweak) {
            Ok(()) => Err(KeyError::HalvesEqual),
            Err(_) => Ok(Self(secret)),
        }
    }

    /// The bytes. Do not copy them into memory that is not locked.
    pub fn expose(&self) -> &[u8; 64] {
        self.0.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_halves_are_refused_and_any_difference_is_enough() {
        let key = VolumeKey::new(Secret::take(&mut [5; 64]).unwrap());
        assert_eq!(key.err().unwrap().code(), "key.halves-equal");
        for byte in 0..64 {
            let mut bytes = [5; 64];
            bytes[byte] ^= 1;
            assert!(VolumeKey::new(Secret::take(&mut bytes).unwrap()).is_ok());
        }
    }

    #[test]
    fn generated_keys_differ() {
        let (a, b) = (VolumeKey::generate().unwrap(), VolumeKey::generate().unwrap());
        assert_ne!(a.expose(), b.expose());
    }
}
