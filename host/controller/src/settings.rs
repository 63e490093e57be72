//! What a host remembers beside its log: whether it is drained, and which keys of the token service followed those
//! that it was installed with. A change is durable before it is in force. The file has two places that are
//! written in turn, so that a crash leaves the old settings or the new ones; both are signed by the host's
//! identity key, so that nobody else writes them. Who can write the host's disk can put an earlier state back.

use crate::boot::sha256;
use host_api::{AttestationKey, Pem, Sha256};
use ids::HostId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use service::Key;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};
use token::{KeySet, Keys, PublicKey, Verifier, cose};

const CONTEXT: &[u8] = b"azote/host-settings/1";
/// Bytes of one place.
const PLACE: usize = 64 * 1024;
const LENGTH: usize = 4;

/// Why the settings cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error("the host's settings {path}: {source}")]
    File {
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Neither place was written by this host.
    #[error("the host's settings {0} are not this host's, or damaged: the host needs a factory reset")]
    Broken(String),
}

/// The settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Takes no new volume and starts no instance.
    pub drained: bool,
    /// The keys that followed the installed ones.
    pub keys: Option<KeptKeys>,
    /// The certificates that it was offered last.
    #[serde(default)]
    pub certificates: Option<KeptCertificates>,
}

/// Certificates that the host was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptCertificates {
    /// Of its identity key, and those above it.
    pub chain: Pem,
    /// Of its TPM's attestation key.
    pub attestation: AttestationKey,
    /// Of the key under which its instances prove what they are, and those above it.
    pub instances: Option<Pem>,
}

/// A later set of the token service's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptKeys {
    /// Its number.
    pub sequence: u64,
    /// The set.
    pub keys: Keys,
    /// Hash of the installed set that it followed. Another one that is installed takes its place.
    pub installed: Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    generation: u64,
    kept: Kept,
}

/// The settings and where they are kept.
pub struct Settings {
    file: File,
    key: Key,
    generation: u64,
    kept: Kept,
    /// A write failed: what is on disk is not known.
    failed: bool,
    installed: Sha256,
    verifier: Trust,
}

/// What checks tokens now, for all who check them.
pub type Trust = Arc<RwLock<Verifier>>;

impl Settings {
    /// Opens or begins the settings of the host with this identity key, which was `installed` to trust these keys. It
    /// trusts those that followed exactly them, if there are any.
    pub fn open(path: &Path, key: Key, host: HostId, installed: Keys) -> Result<Self, SettingsError> {
        let failed = |source: io::Error| SettingsError::File { path: path.display().to_string(), source };
        if !path.exists() {
            let first = Place { generation: 0, kept: Kept::default() };
            let bytes = encode(&first, &key).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
            service::write_atomic(path, &bytes).map_err(failed)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
        let places = [0, PLACE as u64].map(|at| read(&file, at, &key).map_err(failed));
        let mut newest: Option<Place> = None;
        for place in places {
            let place = place?;
            let is_newer = newest.as_ref().map(|n| n.generation) < place.as_ref().map(|p| p.generation);
            newest = if is_newer { place } else { newest };
        }
        let Place { generation, mut kept } =
            newest.ok_or_else(|| SettingsError::Broken(path.display().to_string()))?;
        let hash = fingerprint(&installed);
        kept.keys = kept.keys.filter(|kept| kept.installed == hash);
        let keys = kept.keys.as_ref().map_or(installed, |kept| kept.keys.clone());
        let verifier = Arc::new(RwLock::new(Verifier::new(keys, host)));
        Ok(Self { file, key, generation, kept, failed: false, installed: hash, verifier })
    }

    /// The settings in force.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What checks tokens now and in the future.
    pub fn trust(&self) -> Trust {
        Arc::clone(&self.verifier)
    }

    /// What is measured of the keys in force.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&bytes(self.verifier.read().unwrap_or_else(PoisonError::into_inner).keys()))
    }

    /// Number of the set of keys in force; 0 for the installed one.
    pub fn sequence(&self) -> u64 {
        self.kept.keys.as_ref().map_or(0, |kept| kept.sequence)
    }

    /// Reads the set of keys that may follow the one in force.
    pub fn follow(&self, signed: &[u8]) -> Result<KeptKeys, token::Refusal> {
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner);
        let KeySet { sequence, keys } = verifier.keys().follow(signed, self.sequence())?;
        Ok(KeptKeys { sequence, keys, installed: self.installed.clone() })
    }

    /// Makes other settings durable; they are in force when this returns.
    pub fn change(&mut self, kept: Kept) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::Other.into());
        }
        let place = Place { generation: self.generation + 1, kept };
        let bytes = encode(&place, &self.key).ok_or(io::ErrorKind::InvalidData)?;
        let at = place.generation % 2 * PLACE as u64;
        let written = self.file.write_all_at(&bytes, at).and_then(|()| self.file.sync_data());
        self.failed = written.is_err();
        written?;
        if let Some(kept) = &place.kept.keys {
            self.verifier.write().unwrap_or_else(PoisonError::into_inner).trust(kept.keys.clone());
        }
        (self.generation, self.kept) = (place.generation, place.kept);
        Ok(())
    }
}

/// Length, then a COSE_Sign1 over the settings' JSON text, then zeros.
fn encode(place: &Place, key: &Key) -> Option<Vec<u8>> {
    let signed = cose::sign(key.pair(), serde_json::to_vec(place).ok()?, CONTEXT)?;
    let mut bytes = u32::try_from(signed.len()).ok()?.to_be_bytes().to_vec();
    bytes.extend(signed);
    (bytes.len() <= PLACE).then(|| bytes.resize(PLACE, 0))?;
    Some(bytes)
}

fn read(file: &File, at: u64, key: &Key) -> io::Result<Option<Place>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(Positioned { file, at }, PLACE as u64), &mut bytes)?;
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let signed = usize::try_from(u32::from_be_bytes(*length)).ok().and_then(|length| rest.get(..length));
    let text = signed.and_then(|signed| cose::open(signed, &[PublicKey(key.public())], CONTEXT));
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Reads on from a position.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn bytes(keys: &Keys) -> Vec<u8> {
    keys.list().iter().flat_map(|key| key.0).collect()
}

fn fingerprint(keys: &Keys) -> Sha256 {
    Sha256::from_digest(&sha256(&bytes(keys)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use token::Ed25519KeyPair;

    fn key(n: u8) -> Key {
        Key::from_seed(&[n; 32]).unwrap()
    }

    fn pair(n: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap()
    }

    fn keys(n: u8) -> Keys {
        Keys::new(vec![PublicKey::of(&pair(n))]).unwrap()
    }

    fn open(path: &Path, identity: u8, installed: u8) -> Result<Settings, SettingsError> {
        Settings::open(path, key(identity), HostId::from_random(1), keys(installed))
    }

    fn drained(drained: bool) -> Kept {
        Kept { drained, ..Kept::default() }
    }

    #[test]
    fn settings_outlive_the_process_and_are_one_hosts_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings");
        let mut settings = open(&path, 1, 7).unwrap();
        assert_eq!(settings.kept(), &Kept::default());
        settings.change(drained(true)).unwrap();
        assert!(matches!(open(&path, 1, 7), Err(SettingsError::File { .. })), "two at once");
        drop(settings);
        let mut settings = open(&path, 1, 7).unwrap();
        assert_eq!(settings.kept(), &drained(true));
        settings.change(drained(false)).unwrap();
        drop(settings);
        assert_eq!(open(&path, 1, 7).unwrap().kept(), &drained(false));
        assert!(matches!(open(&path, 2, 7), Err(SettingsError::Broken(_))));
    }

    #[test]
    fn a_write_that_a_crash_tore_leaves_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings");
        let mut settings = open(&path, 1, 7).unwrap();
        for n in 1..=4 {
            settings.change(drained(n % 2 == 1)).unwrap();
        }
        drop(settings);
        let whole = std::fs::read(&path).unwrap();
        // The next write would be into the second place.
        for torn in [PLACE, PLACE + 3, PLACE + 100] {
            let mut bytes = whole.clone();
            bytes[torn..torn + 50].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(open(&path, 1, 7).unwrap().kept(), &drained(false));
        }
        let mut bytes = whole.clone();
        bytes[10] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open(&path, 1, 7).unwrap().kept(), &drained(true), "the one before");
        bytes[PLACE + 10] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(&path, 1, 7), Err(SettingsError::Broken(_))));
    }

    #[test]
    fn a_disk_that_takes_no_writes_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = open(&dir.path().join("settings"), 1, 7).unwrap();
        settings.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        settings.change(drained(true)).unwrap_err();
        assert_eq!(settings.kept(), &Kept::default());
        settings.change(drained(true)).unwrap_err();
    }

    #[test]
    fn keys_that_were_kept_hold_until_others_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings");
        let trusted = |settings: &Settings| settings.trust().read().unwrap().keys().clone();
        let mut settings = open(&path, 1, 7).unwrap();
        let trust = settings.trust();
        let signed = KeySet { sequence: 5, keys: keys(8) }.sign(&pair(7)).unwrap();
        let kept = settings.follow(&signed).unwrap();
        assert_eq!(trusted(&settings), keys(7), "not before they are kept");
        settings.change(Kept { drained: true, keys: Some(kept), certificates: None }).unwrap();
        assert_eq!((settings.sequence(), trust.read().unwrap().keys()), (5, &keys(8)));
        assert_eq!(settings.follow(&signed), Err(token::Refusal::KeysSignature));
        drop(settings);
        let settings = open(&path, 1, 7).unwrap();
        assert_eq!((settings.sequence(), trusted(&settings)), (5, keys(8)));
        drop(settings);
        let settings = open(&path, 1, 9).unwrap();
        assert_eq!((settings.sequence(), trusted(&settings)), (0, keys(9)));
        assert!(settings.kept().drained);
    }
}
