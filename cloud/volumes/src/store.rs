//! A folder of volumes: `vol-….img` holds ciphertext, `vol-….json` the metadata.

use ids::{KeyId, VolumeId};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Volumes are a multiple of this many bytes.
pub const UNIT: u64 = 4096;
/// Largest volume in bytes: 64 TiB, as EBS has it.
pub const MAX_SIZE: u64 = 64 << 40;
/// Longest metadata file in bytes.
const MAX_METADATA: u64 = 64 * 1024;
/// The metadata's format, first in the file.
const FORMAT: &str = "azote/volume/1";

/// What is known of a volume. None of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    format: String,
    /// Which volume.
    pub id: VolumeId,
    /// Size in bytes.
    pub size: u64,
    /// The customer key under which the volume key is wrapped.
    pub key: KeyId,
    /// The volume key, wrapped by KMS and bound to `aws:ebs:id`; base64 in the file.
    #[serde(with = "wire::base64_bytes")]
    pub wrapped_key: Vec<u8>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Zero, too large, or no multiple of [`UNIT`].
    #[error("a volume has a multiple of {UNIT} bytes, at least one and at most {MAX_SIZE} (64 TiB)")]
    Size,
    /// There is none of that name.
    #[error("there is no volume {0}; `azote volume list` shows those there are")]
    Unknown(VolumeId),
    /// The metadata is not what this program wrote.
    #[error("the metadata of {0} is damaged or of another format")]
    Damaged(String),
    /// The system refused.
    #[error("volume store: {0}")]
    Io(#[from] io::Error),
}

impl StoreError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Size => "volume.size",
            Self::Unknown(_) => "volume.unknown",
            Self::Damaged(_) => "volume.damaged",
            Self::Io(_) => "volume.io",
        }
    }
}

/// A folder of volumes.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

impl Store {
    /// Takes an existing folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The file that holds a volume's ciphertext.
    pub fn data(&self, id: &VolumeId) -> PathBuf {
        self.0.join(format!("{id}.img"))
    }

    fn metadata(&self, id: &VolumeId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Begins an empty volume, which can be filled. It exists once it is [kept](Draft::keep).
    pub fn draft(
        &self,
        id: VolumeId,
        size: u64,
        key: KeyId,
        wrapped_key: Vec<u8>,
    ) -> Result<Draft<'_>, StoreError> {
        if size == 0 || size > MAX_SIZE || !size.is_multiple_of(UNIT) {
            return Err(StoreError::Size);
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let volume = Volume { format: FORMAT.to_owned(), id, size, key, wrapped_key, created };
        let data = new_file(&self.data(&volume.id))?;
        let draft = Draft { store: self, volume, data, kept: false };
        draft.data.set_len(size)?;
        Ok(draft)
    }

    /// Reads one volume's metadata.
    pub fn get(&self, id: &VolumeId) -> Result<Volume, StoreError> {
        let path = self.metadata(id);
        let length = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Unknown(id.clone()));
            }
            Err(error) => return Err(error.into()),
        };
        let damaged = || StoreError::Damaged(id.to_string());
        if length > MAX_METADATA {
            return Err(damaged());
        }
        let volume: Volume = serde_json::from_slice(&fs::read(&path)?).map_err(|_| damaged())?;
        if volume.format == FORMAT && volume.id == *id { Ok(volume) } else { Err(damaged()) }
    }

    /// All volumes, oldest first.
    pub fn list(&self) -> Result<Vec<Volume>, StoreError> {
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|kind| kind == "json")
                && let Ok(id) = name.parse()
            {
                volumes.push(self.get(&id)?);
            }
        }
        volumes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(volumes)
    }
}

/// A volume that does not exist yet. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Draft<'a> {
    store: &'a Store,
    volume: Volume,
    data: File,
    kept: bool,
}

impl Draft<'_> {
    /// What it will be.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The file that holds its ciphertext.
    pub(crate) fn data(&self) -> io::Result<File> {
        self.data.try_clone()
    }

    /// Makes it a volume, durable when this returns.
    pub fn keep(mut self) -> Result<Volume, StoreError> {
        self.data.sync_all()?;
        let path = self.store.metadata(&self.volume.id);
        let partial = path.with_extension("new");
        let mut metadata = new_file(&partial)?;
        metadata.write_all(&serde_json::to_vec_pretty(&self.volume).map_err(io::Error::other)?)?;
        metadata.sync_all()?;
        fs::rename(&partial, &path)?;
        self.kept = true;
        File::open(&self.store.0)?.sync_all()?;
        Ok(self.volume.clone())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is storage without a volume: it harms nobody.
            for path in
                [self.store.data(&self.volume.id), self.store.metadata(&self.volume.id).with_extension("new")]
            {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::new(scratch.path());
        (scratch, store)
    }

    fn made(store: &Store, id: VolumeId, size: u64) -> Volume {
        store.draft(id, size, KeyId::from_random(7), b"wrapped".to_vec()).unwrap().keep().unwrap()
    }

    #[test]
    fn a_draft_that_is_not_kept_leaves_nothing() {
        let (scratch, store) = store();
        let draft = store.draft(VolumeId::from_random(5), UNIT, KeyId::from_random(7), Vec::new()).unwrap();
        assert!(store.data(&draft.volume().id).exists());
        assert_eq!(store.list().unwrap(), [], "it does not exist yet");
        drop(draft);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_volume_is_made_found_and_listed() {
        let (_scratch, store) = store();
        let (a, b) = (VolumeId::from_random(1), VolumeId::from_random(2));
        let first = made(&store, a.clone(), 1 << 20);
        made(&store, b.clone(), UNIT);
        assert_eq!(store.get(&a).unwrap(), first);
        assert_eq!(store.list().unwrap().len(), 2);
        assert_eq!(fs::metadata(store.data(&a)).unwrap().len(), 1 << 20);
        assert!(
            store.draft(a.clone(), UNIT, KeyId::from_random(7), Vec::new()).is_err(),
            "an id is used once"
        );
        assert_eq!(store.get(&a).unwrap(), first, "and who tries harms nothing");
    }

    #[test]
    fn wrong_sizes_and_damaged_metadata_are_refused() {
        let (_scratch, store) = store();
        let key = || KeyId::from_random(7);
        for size in [0, 1, UNIT - 1, UNIT + 512, MAX_SIZE + UNIT] {
            let refused = store.draft(VolumeId::from_random(3), size, key(), Vec::new()).unwrap_err();
            assert_eq!(refused.code(), "volume.size");
        }
        let id = VolumeId::from_random(4);
        assert_eq!(store.get(&id).unwrap_err().code(), "volume.unknown");
        made(&store, id.clone(), UNIT);
        let text = fs::read_to_string(store.metadata(&id)).unwrap();
        for damage in [
            &text[..text.len() / 2],
            &text.replace("volume/1", "volume/9"),
            &text.replace(id.hex(), "00000000000000009"),
        ] {
            fs::write(store.metadata(&id), damage).unwrap();
            assert_eq!(store.get(&id).unwrap_err().code(), "volume.damaged");
        }
    }
}
