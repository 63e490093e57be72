//! The signing keys in memory, and their rotation.

use crate::{
    Entry, Kind,
    ledger::Refused,
    recorder::{Opened, Recorder},
    rotation::{Other, Ring, Step, UnderWay},
    store::{KeyChange, StoreError},
    time,
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
};
use service::{Key, KeyError};
use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
    time::Duration,
};
use token::{Keys, PublicKey};
use zeroize::Zeroizing;

/// Bytes of the key under which signing keys are kept.
pub const WRAPPING_KEY: usize = 32;
const CONTEXT: &[u8] = b"azote/signing-key/1";
/// How often the clock is asked whether a rotation goes on.
const TURN: Duration = Duration::from_millis(500);

/// When keys change.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Seconds from a key's announcement to its first signature.
    pub overlap: u64,
    /// Seconds after which a key is followed by the next one by itself; without it, only on request.
    pub rotate_after: Option<u64>,
    /// Seconds that a token lives at most, and how far clocks may be apart.
    pub life: u64,
}

/// Why there are no keys, or no new ones.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A rotation is under way.
    #[error(transparent)]
    UnderWay(#[from] UnderWay),
    /// It cannot be written down.
    #[error(transparent)]
    Ledger(#[from] Refused),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A kept key does not open, or the library failed.
    #[error("a signing key does not open: is this the TPM, and the store, of this service?")]
    Sealed,
}

impl From<Unspecified> for KeyringError {
    fn from(_: Unspecified) -> Self {
        Self::Sealed
    }
}

struct State {
    ring: Ring,
    present: Arc<Key>,
    next: Option<Arc<Key>>,
}

/// The signing keys.
pub struct Keyring {
    state: RwLock<State>,
    /// Held through a change from decision to memory.
    change: Mutex<()>,
    wrapping: RandomizedNonceKey,
    recorder: Recorder,
    schedule: Schedule,
}

/// Keys that are read, before there are threads.
pub struct Prepared {
    state: State,
    wrapping: RandomizedNonceKey,
}

impl Prepared {
    /// Opens the kept keys; makes the first one if there are none.
    pub fn open(opened: &mut Opened, wrapping: &[u8]) -> Result<Self, KeyringError> {
        let wrapping = RandomizedNonceKey::new(&AES_256_GCM, wrapping)?;
        let Some(text) = opened.store().ring()? else {
            let (key, ring) = first(time::seconds())?;
            let change = change(&ring, Some(wrap(&wrapping, &key)?), None, None)?;
            opened.change_keys(change, entry(&ring, "keys.first"))?;
            return Ok(Self { state: State { ring, present: Arc::new(key), next: None }, wrapping });
        };
        let ring: Ring = serde_json::from_slice(&text).map_err(StoreError::from)?;
        let open = |key: PublicKey| {
            let kept = opened.store().key(key.0)?.ok_or(KeyringError::Sealed)?;
            unwrap(&wrapping, key, &kept).map(Arc::new)
        };
        let present = open(ring.present)?;
        let next = match ring.other {
            Some(Other::Next(key, _)) => Some(open(key)?),
            _ => None,
        };
        Ok(Self { state: State { ring, present, next }, wrapping })
    }

    /// Ready to sign, and to change by the clock, in a thread of its own.
    pub fn start(self, recorder: Recorder, schedule: Schedule) -> Arc<Keyring> {
        let keyring = Arc::new(Keyring {
            state: RwLock::new(self.state),
            change: Mutex::new(()),
            wrapping: self.wrapping,
            recorder,
            schedule,
        });
        let turning = Arc::downgrade(&keyring);
        thread::spawn(move || {
            while let Some(keyring) = turning.upgrade() {
                if let Err(error) = keyring.turn(time::seconds()) {
                    tracing::error!(%error, "the signing keys do not change");
                }
                drop(keyring);
                thread::sleep(TURN);
            }
        });
        keyring
    }
}

impl Keyring {
    /// The key that signs now.
    pub(crate) fn signer(&self) -> Arc<Key> {
        self.read(|state| state.present.clone())
    }

    /// The keys to trust now.
    pub(crate) fn keys(&self) -> Option<Keys> {
        self.read(|state| state.ring.keys())
    }

    /// The ring as it is.
    pub(crate) fn ring(&self) -> Ring {
        self.read(|state| state.ring.clone())
    }

    /// Announces a new key, which signs after the overlap. Blocks.
    pub(crate) fn rotate(&self, now: u64) -> Result<Ring, KeyringError> {
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::generate()?;
        let ring = self.ring().announce(PublicKey(key.public()), now, self.schedule.overlap)?;
        let signed = self.sign_set(&ring)?;
        let change = change(&ring, Some(wrap(&self.wrapping, &key)?), None, Some(signed))?;
        self.recorder.change_keys_blocking(change, entry(&ring, "keys.announced"))?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        (state.ring, state.next) = (ring.clone(), Some(Arc::new(key)));
        tracing::info!(sequence = ring.sequence, "announced the next signing key");
        Ok(ring)
    }

    /// Does what is due.
    fn turn(&self, now: u64) -> Result<(), KeyringError> {
        let ring = self.ring();
        if let Some(after) = self.schedule.rotate_after
            && ring.other.is_none()
            && now >= ring.since.saturating_add(after)
        {
            return self.rotate(now).map(drop);
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((ring, step)) = self.ring().tick(now, self.schedule.life) else { return Ok(()) };
        match step {
            Step::Switched => {
                let old = PublicKey(self.signer().public());
                let change = change(&ring, None, Some(old.0), None)?;
                self.recorder.change_keys_blocking(change, entry(&ring, "keys.switched"))?;
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(next) = state.next.take() {
                    state.present = next;
                }
                state.ring = ring;
            }
            Step::Retired(_) => {
                let signed = self.sign_set(&ring)?;
                let change = change(&ring, None, None, Some(signed))?;
                self.recorder.change_keys_blocking(change, entry(&ring, "keys.retired"))?;
                self.state.write().unwrap_or_else(PoisonError::into_inner).ring = ring;
            }
        }
        tracing::info!(?step, "the signing keys changed");
        Ok(())
    }

    fn sign_set(&self, ring: &Ring) -> Result<(u64, Vec<u8>), KeyringError> {
        let signed = ring.set().and_then(|set| set.sign(self.signer().pair()));
        Ok((ring.sequence, signed.ok_or(KeyringError::Sealed)?))
    }

    fn read<T>(&self, of: impl FnOnce(&State) -> T) -> T {
        of(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn first(now: u64) -> Result<(Key, Ring), KeyringError> {
    let key = Key::generate()?;
    let ring = Ring::new(PublicKey(key.public()), now);
    Ok((key, ring))
}

fn change(
    ring: &Ring,
    add: Option<([u8; 32], Vec<u8>)>,
    drop: Option<[u8; 32]>,
    set: Option<(u64, Vec<u8>)>,
) -> Result<KeyChange, KeyringError> {
    Ok(KeyChange { ring: serde_json::to_vec(ring).map_err(StoreError::from)?, add, drop, set })
}

fn entry(ring: &Ring, code: &str) -> Entry {
    let keys = ring.keys().map(|keys| keys.list().iter().map(|key| String::from(*key)).collect::<Vec<_>>());
    let keys = keys.unwrap_or_default().join(" ");
    Entry {
        code: Some(code.to_owned()),
        detail: Some(format!("set {}: {keys}", ring.sequence)),
        ..Entry::new(Kind::Keys)
    }
}

fn additional(public: &[u8; 32]) -> Aad<Vec<u8>> {
    Aad::from([CONTEXT, public].concat())
}

fn wrap(wrapping: &RandomizedNonceKey, key: &Key) -> Result<([u8; 32], Vec<u8>), KeyringError> {
    let mut sealed = Vec::with_capacity(key.seed().len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(key.seed());
    let nonce = wrapping.seal_in_place_append_tag(additional(&key.public()), &mut sealed)?;
    Ok((key.public(), [&nonce.as_ref()[..], &sealed].concat()))
}

fn unwrap(wrapping: &RandomizedNonceKey, public: PublicKey, kept: &[u8]) -> Result<Key, KeyringError> {
    let (nonce, sealed) = kept.split_first_chunk::<NONCE_LEN>().ok_or(KeyringError::Sealed)?;
    let mut seed = Zeroizing::new(sealed.to_vec());
    let seed = wrapping.open_in_place(Nonce::from(nonce), additional(&public.0), &mut seed)?;
    let key = Key::from_seed(seed)?;
    if key.public() == public.0 { Ok(key) } else { Err(KeyringError::Sealed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_key_opens_only_under_its_wrapping_key_and_its_name() {
        let wrapping = RandomizedNonceKey::new(&AES_256_GCM, &[1; WRAPPING_KEY]).unwrap();
        let key = Key::generate().unwrap();
        let (public, kept) = wrap(&wrapping, &key).unwrap();
        assert!(!kept.windows(32).any(|window| window == key.seed()));
        assert_eq!(unwrap(&wrapping, PublicKey(public), &kept).unwrap().seed(), key.seed());
        assert!(unwrap(&wrapping, PublicKey([0; 32]), &kept).is_err());
        let other = RandomizedNonceKey::new(&AES_256_GCM, &[2; WRAPPING_KEY]).unwrap();
        assert!(unwrap(&other, PublicKey(public), &kept).is_err());
        for at in 0..kept.len() {
            let mut changed = kept.clone();
            changed[at] ^= 1;
            assert!(unwrap(&wrapping, PublicKey(public), &changed).is_err(), "byte {at}");
        }
        assert!(unwrap(&wrapping, PublicKey(public), &kept[..NONCE_LEN - 1]).is_err());
    }
}
