//! AES-256-GCM, in place in locked memory.

use crate::{KmsError, MAX_DATA_KEY};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use seal::Secret;

const TAG: usize = 16;
/// How much longer a sealed secret is.
pub(crate) const OVERHEAD: usize = NONCE_LEN + TAG;
const BUFFER: usize = MAX_DATA_KEY as usize + TAG;

/// What was opened.
pub(crate) struct Opened {
    buffer: Secret<BUFFER>,
    length: usize,
}

impl Opened {
    /// The secret, if it has `N` bytes.
    pub(crate) fn exactly<const N: usize>(&self) -> Result<Secret<N>, KmsError> {
        let bytes = self.buffer.expose().get(..self.length).ok_or(KmsError::Ciphertext)?;
        if bytes.len() != N {
            return Err(KmsError::Ciphertext);
        }
        let mut secret = Secret::zeroed()?;
        secret.expose_mut().copy_from_slice(bytes);
        Ok(secret)
    }
}

/// Encrypts `secret`, which then holds ciphertext; gives nonce, ciphertext, tag.
pub(crate) fn seal(key: &Secret<32>, aad: &[u8], secret: &mut [u8]) -> Result<Vec<u8>, KmsError> {
    let (nonce, tag) = cipher(key)?
        .seal_in_place_separate_tag(Aad::from(aad), secret)
        .map_err(|_| KmsError::internal("cannot encrypt"))?;
    Ok([nonce.as_ref().as_slice(), secret, tag.as_ref()].concat())
}

/// Opens what [`seal`] made.
pub(crate) fn open(key: &Secret<32>, aad: &[u8], sealed: &[u8]) -> Result<Opened, KmsError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(KmsError::Ciphertext)?;
    let mut buffer = Secret::<BUFFER>::zeroed()?;
    let part = buffer.expose_mut().get_mut(..rest.len()).ok_or(KmsError::Ciphertext)?;
    part.copy_from_slice(rest);
    let opened = cipher(key)?.open_in_place(Nonce::from(nonce), Aad::from(aad), part);
    let length = opened.map_err(|_| KmsError::Ciphertext)?.len();
    Ok(Opened { buffer, length })
}

fn cipher(key: &Secret<32>) -> Result<RandomizedNonceKey, KmsError> {
    RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map_err(|_| KmsError::internal("no cipher"))
}
