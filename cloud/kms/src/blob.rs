//! The ciphertext of a data key, all in one piece: `AZKMSBLB`, format version (2 bytes, 1), the key's id
//! (21 bytes of ASCII), nonce (12), ciphertext, tag (16). Everything in front of the nonce is
//! authenticated, and so is the encryption context.

use crate::{EncryptionContext, KmsError, MAX_CIPHERTEXT, cipher};
use ids::KeyId;
use seal::Secret;

const MAGIC: &[u8; 10] = b"AZKMSBLB\x00\x01";
const ID: usize = 21;
const HEADER: usize = MAGIC.len() + ID;

/// The key that a ciphertext says it is under. `None` if it is none of this service, or of another version.
pub fn key_of(blob: &[u8]) -> Option<KeyId> {
    let fits = (HEADER + cipher::OVERHEAD + 1..=MAX_CIPHERTEXT).contains(&blob.len());
    let id = blob.strip_prefix(MAGIC).filter(|_| fits)?.get(..ID)?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Encrypts a data key, which then holds ciphertext.
pub(crate) fn seal(
    key: &Secret<32>,
    id: &KeyId,
    context: &EncryptionContext,
    data_key: &mut [u8],
) -> Result<Vec<u8>, KmsError> {
    let header = [MAGIC, id.as_str().as_bytes()].concat();
    let sealed = cipher::seal(key, &aad(&header, context), data_key)?;
    Ok([header, sealed].concat())
}

/// Opens a ciphertext that [`key_of`] has read.
pub(crate) fn open(
    key: &Secret<32>,
    context: &EncryptionContext,
    blob: &[u8],
) -> Result<cipher::Opened, KmsError> {
    let (header, sealed) = blob.split_at_checked(HEADER).ok_or(KmsError::Ciphertext)?;
    cipher::open(key, &aad(header, context), sealed)
}

/// The header has a fixed length, so the two parts cannot be taken for one another.
fn aad(header: &[u8], context: &EncryptionContext) -> Vec<u8> {
    [header, &context.canonical()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::VolumeId;
    use proptest::prelude::*;

    fn sealed() -> (Secret<32>, EncryptionContext, Vec<u8>) {
        let key = Secret::take(&mut [1; 32]).unwrap();
        let context = EncryptionContext::of_volume(&VolumeId::from_random(1));
        let blob = seal(&key, &KeyId::from_random(2), &context, &mut [7; 64]).unwrap();
        (key, context, blob)
    }

    #[test]
    fn it_opens_in_its_context_only() {
        let (key, context, blob) = sealed();
        assert_eq!(key_of(&blob), Some(KeyId::from_random(2)));
        assert_eq!(open(&key, &context, &blob).unwrap().exactly::<64>().unwrap().expose(), &[7; 64]);
        assert!(open(&key, &context, &blob).unwrap().exactly::<32>().is_err());
        let other = EncryptionContext::of_volume(&VolumeId::from_random(3));
        assert!(open(&key, &other, &blob).is_err());
        assert!(open(&key, &EncryptionContext::default(), &blob).is_err());
        assert!(!blob.windows(8).any(|window| window == [7; 8]));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_refused(at: prop::sample::Index, bit in 0..8_u32) {
            let (key, context, mut blob) = sealed();
            let at = at.index(blob.len());
            blob[at] ^= 1_u8 << bit;
            prop_assert!(open(&key, &context, &blob).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), good: bool) {
            let (key, context, blob) = sealed();
            let bytes = if good { [&blob[..HEADER], &bytes].concat() } else { bytes };
            let _ = key_of(&bytes);
            prop_assert!(open(&key, &context, &bytes).is_err());
        }
    }
}
