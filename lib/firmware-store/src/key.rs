//! The key of a store.

use crate::{Digest, Error};
use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use zeroize::Zeroizing;

const KEY: usize = 32;
/// Length of the removable half in bytes.
pub const REMOVABLE: usize = 32;

/// The key under which a store's index is encrypted. Wiped when it is dropped.
pub struct StoreKey(Zeroizing<[u8; KEY]>);

impl std::fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreKey")
    }
}

impl StoreKey {
    /// Derives it from what the TPM sealed and, where the host has one, from the removable half: without either of both
    /// there is no way to it.
    pub fn derive(sealed: &[u8], removable: Option<&[u8; REMOVABLE]>) -> Self {
        let salt: &[u8] = removable.map_or(b"", |half| half);
        let info: [&[u8]; 1] =
            [if removable.is_some() { b"azote/store/two-halves/1" } else { b"azote/store/1" }];
        let mut key = Zeroizing::new([0; KEY]);
        let derived = Salt::new(HKDF_SHA256, salt).extract(sealed);
        // Fails for lengths only, and this one is fixed; a key of zeros would open nothing and be found by the check.
        if let Ok(expanded) = derived.expand(&info, HKDF_SHA256) {
            let _ = expanded.fill(&mut *key);
        }
        Self(key)
    }

    /// The cipher of one index, and what tells that this is the right key for it.
    pub(crate) fn index(&self, random: &Digest) -> Result<(LessSafeKey, Digest), Error> {
        let derived = Salt::new(HKDF_SHA256, random).extract(&*self.0);
        let mut check = Digest::default();
        let told = derived.expand(&[b"azote/store/check/1"], HKDF_SHA256).map_err(|_| Error::Cipher)?;
        told.fill(&mut check).map_err(|_| Error::Cipher)?;
        let cipher = derived.expand(&[b"azote/store/index/1"], &AES_256_GCM).map_err(|_| Error::Cipher)?;
        Ok((LessSafeKey::new(UnboundKey::from(cipher)), check))
    }
}
