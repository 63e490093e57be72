//! An open store, and changes of it.

use crate::{
    Blob, Digest, Disk, Error, Folder, StoreKey, blob, folder,
    index::{self, MAX_INDEX, Table},
    memory,
};
use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
};
use zeroize::Zeroizing;

const INDEX: &str = "index";
const NEXT: &str = "index.next";

/// An open store.
pub struct Store<D = Folder> {
    disk: D,
    key: StoreKey,
    table: Table,
}

impl<D> std::fmt::Debug for Store<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("blobs", &self.table.blobs.len()).finish_non_exhaustive()
    }
}

impl<D: Disk> Store<D> {
    /// Begins an empty store. What an earlier one left in the folder goes: nobody can read it any more.
    pub fn create(disk: D, key: StoreKey) -> Result<Self, Error> {
        let mut store = Self { disk, key, table: Table::default() };
        store.change().commit()?;
        Ok(store)
    }

    /// Opens a store.
    pub fn open(disk: D, key: StoreKey) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        match disk.open(INDEX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Index),
            file => file?.take(MAX_INDEX as u64 + 1).read_to_end(&mut bytes)?,
        };
        let table = index::open(&key, &bytes)?;
        Ok(Self { disk, key, table })
    }

    /// The images that it has.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.table.blobs.values()
    }

    /// One of its images.
    pub fn blob(&self, sha256: &Digest) -> Result<&Blob, Error> {
        self.table.blobs.get(sha256).ok_or(Error::Image(*sha256))
    }

    /// A small secret.
    pub fn secret(&self, name: &str) -> Option<&[u8]> {
        self.table.secrets.get(name).map(|secret| secret.as_slice())
    }

    /// An image in sealed memory called `name`: exactly the bytes of this hash.
    pub fn image(&self, sha256: &Digest, name: &str) -> Result<OwnedFd, Error> {
        memory::sealed(name, |memory| self.read(sha256, |bytes| memory.write_all(bytes)))
    }

    /// An image of at most `most` bytes.
    pub fn bytes(&self, sha256: &Digest, most: u64) -> Result<Vec<u8>, Error> {
        if self.blob(sha256)?.length > most {
            return Err(Error::Image(*sha256));
        }
        let mut bytes = Vec::new();
        self.read(sha256, |part| bytes.write_all(part))?;
        Ok(bytes)
    }

    /// Reads and decrypts every image; gives the first fault of each that has one.
    pub fn verify(&self) -> Vec<(Digest, Error)> {
        let check = |sha256: &Digest| {
            self.read(sha256, |_| Ok(()))?;
            let same = folder::sum(&self.disk, sha256)? == self.blob(sha256)?.sum;
            same.then_some(()).ok_or(Error::Blob(*sha256))
        };
        self.table.blobs.keys().filter_map(|sha256| Some((*sha256, check(sha256).err()?))).collect()
    }

    fn read(&self, sha256: &Digest, into: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        let blob = self.blob(sha256)?;
        let mut file =
            self.disk.open(&folder::name(sha256)).map_err(|error| folder::missing(error, sha256))?;
        blob::open(blob, &mut file, into)
    }

    /// Begins a change. Nothing of it counts before [`Change::commit`].
    pub fn change(&mut self) -> Change<'_, D> {
        let table = self.table.clone();
        Change { store: self, table }
    }

    /// What neither index names goes. A failure leaves rubbish, and the next change tries again.
    fn sweep(&self) {
        for name in self.disk.names().unwrap_or_default() {
            let known = self.table.blobs.keys().any(|sha256| folder::name(sha256) == name);
            if name != INDEX && !known {
                let _ = self.disk.remove(&name);
            }
        }
    }
}

/// A change of a store: all of it counts or nothing.
pub struct Change<'a, D = Folder> {
    store: &'a mut Store<D>,
    table: Table,
}

impl<D: Disk> Change<'_, D> {
    /// Puts an image in, if it is not there already; gives its hash.
    pub fn put(&mut self, content: &[u8]) -> Result<Digest, Error> {
        let sha256 = crate::sha256(content);
        let kept = self.table.blobs.get(&sha256).map(|blob| blob.sum);
        if kept.is_some() && folder::sum(&self.store.disk, &sha256).ok() == kept {
            return Ok(sha256);
        }
        if kept.is_none() && self.table.blobs.len() >= index::MAX_BLOBS {
            return Err(Error::Full);
        }
        let (blob, file) = blob::seal(content)?;
        self.store.disk.write(&folder::name(&sha256), &file).map_err(full)?;
        self.table.blobs.insert(sha256, blob);
        Ok(sha256)
    }

    /// Keeps, of the images, those alone.
    pub fn retain(&mut self, keep: impl Fn(&Digest) -> bool) {
        self.table.blobs.retain(|sha256, _| keep(sha256));
    }

    /// Keeps a small secret, in place of one of this name that may be there.
    pub fn set_secret(&mut self, name: &str, secret: &[u8]) {
        self.table.secrets.insert(name.to_owned(), Zeroizing::new(secret.to_vec()));
    }

    /// What an image's entry in the index will be.
    pub fn blob(&self, sha256: &Digest) -> Result<&Blob, Error> {
        self.table.blobs.get(sha256).ok_or(Error::Image(*sha256))
    }

    /// Makes the change durable, as a whole.
    pub fn commit(self) -> Result<(), Error> {
        let Self { store, table } = self;
        let bytes = index::seal(&store.key, &table)?;
        store.disk.write(NEXT, &bytes).map_err(full)?;
        store.disk.rename(NEXT, INDEX)?;
        store.table = table;
        store.sweep();
        Ok(())
    }
}

fn full(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
        _ => error.into(),
    }
}
