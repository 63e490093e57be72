//! A card's key pair, and volume keys sealed to it.

use crate::{KeyError, Secret, VolumeKey, kernel::random};
use aws_lc_rs::rand;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::{AeadTag, AesGcm256},
    inout::InOutBuf,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    single_shot_open_inout_detached, single_shot_seal_inout_detached_with_rng,
};
use ids::{HostId, VolumeId};

/// Length of a card's public key in bytes.
pub const PUBLIC_KEY_SIZE: usize = 32;
/// Length of a sealed volume key in bytes: encapsulated key, ciphertext, tag.
pub const SEALED_SIZE: usize = PUBLIC_KEY_SIZE + KEY_SIZE + TAG_SIZE;

const KEY_SIZE: usize = 64;
const TAG_SIZE: usize = 16;
const INFO: &[u8] = b"azote/volume-key/1";

/// What a sealed key is for. It opens for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The host whose card may open it.
    pub host: HostId,
    /// The volume that it is the key of.
    pub volume: VolumeId,
}

impl Context {
    /// One text for each context: both identifiers have a fixed form without a line feed in it.
    fn canonical(&self) -> String {
        format!("host={}\nvolume={}\n", self.host, self.volume)
    }
}

/// A card's private key, made at the card's start and never written anywhere.
pub struct CardKey {
    private: Secret<32>,
    public: [u8; PUBLIC_KEY_SIZE],
}

impl CardKey {
    /// A new key pair.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Secret::<32>::zeroed()?;
        rand::fill(seed.expose_mut()).map_err(|_| KeyError::Random)?;
        Self::derive(seed.expose())
    }

    /// RFC 9180 section 7.1.3.
    fn derive(seed: &[u8]) -> Result<Self, KeyError> {
        let (private, public) = X25519HkdfSha256::derive_keypair(seed);
        let mut locked = Secret::zeroed()?;
        private.write_exact(locked.expose_mut());
        Ok(Self { private: locked, public: public.to_bytes().into() })
    }

    /// The public key that keys are sealed to.
    pub fn public(&self) -> &[u8; PUBLIC_KEY_SIZE] {
        &self.public
    }

    /// Opens a key that was sealed to this card for `context`. Whatever is wrong with it, the answer is
    /// [`KeyError::Sealed`], unless it opens and its halves are equal.
    pub fn open(&self, sealed: &[u8], context: &Context) -> Result<VolumeKey, KeyError> {
        let refuse = |_| KeyError::Sealed;
        let (encapsulated, ciphertext, tag) = split(sealed).ok_or(KeyError::Sealed)?;
        let private =
            <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.private.expose()).map_err(refuse)?;
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(refuse)?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(refuse)?;
        let mut secret = Secret::<KEY_SIZE>::zeroed()?;
        secret.expose_mut().copy_from_slice(ciphertext);
        single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            INFO,
            InOutBuf::from(secret.expose_mut().as_mut_slice()),
            context.canonical().as_bytes(),
            &tag,
        )
        .map_err(refuse)?;
        VolumeKey::new(secret)
    }
}

fn split(sealed: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (encapsulated, rest) = sealed.split_at_checked(PUBLIC_KEY_SIZE)?;
    let (ciphertext, tag) = rest.split_at_checked(KEY_SIZE)?;
    (tag.len() == TAG_SIZE).then_some((encapsulated, ciphertext, tag))
}

/// Seals a volume key to a card's public key for one context: [`SEALED_SIZE`] bytes.
pub fn seal(card_public: &[u8], context: &Context, key: &VolumeKey) -> Result<Vec<u8>, KeyError> {
    let refuse = |_| KeyError::PublicKey;
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(card_public).map_err(refuse)?;
    // Encrypted in place in locked memory, so that the plain key is never anywhere else.
    let mut buffer = Secret::<KEY_SIZE>::zeroed()?;
    buffer.expose_mut().copy_from_slice(key.expose());
    let (encapsulated, tag) =
        single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            InOutBuf::from(buffer.expose_mut().as_mut_slice()),
            context.canonical().as_bytes(),
            &mut random(),
        )
        .map_err(refuse)?;
    Ok([encapsulated.to_bytes().as_slice(), buffer.expose(), tag.to_bytes().as_slice()].concat())
}

#[cfg(test)]
mod tests;
