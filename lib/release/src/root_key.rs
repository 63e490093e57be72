use crate::{Digest, Error, sha256};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::Ed25519KeyPair,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use token::PublicKey;
use zeroize::Zeroizing;

const KEY_FILE: &str = "root.key";
const PUBLIC_FILE: &str = "root.pub";

/// The key that signs releases and configurations. In a file that only its owner can read it is a stand-in for one
/// that lies offline or in a hardware module.
pub struct RootKey(Ed25519KeyPair);

impl RootKey {
    /// Makes a key.
    pub fn generate() -> Result<Self, Error> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| Error::Make("the system gives no key".to_owned()))
    }

    /// Makes a key in `dir`, which must exist and hold none, and its public half beside it for everybody to read.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let key = Self::generate()?;
        let failed = |_| Error::Make("the library does not write the key".to_owned());
        let secret: Pkcs8V1Der<'_> = key.0.as_der().map_err(failed)?;
        let secret = Zeroizing::new(secret.as_ref().to_vec());
        write_new(&dir.join(KEY_FILE), 0o600, &secret)?;
        write_new(&dir.join(PUBLIC_FILE), 0o644, format!("{}\n", String::from(key.public())).as_bytes())?;
        Ok(key)
    }

    /// Opens the key in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(KEY_FILE);
        let secret = Zeroizing::new(fs::read(&path).map_err(Error::file(&path))?);
        Ed25519KeyPair::from_pkcs8(&secret).map(Self).map_err(|_| Error::Form("the root key"))
    }

    /// Whether `dir` holds a key.
    pub fn exists(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
    }

    /// Reads the public half that [`RootKey::create`] wrote.
    pub fn read_public(path: &Path) -> Result<PublicKey, Error> {
        let path = if path.is_dir() { path.join(PUBLIC_FILE) } else { path.to_owned() };
        let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
        PublicKey::try_from(text.trim().to_owned()).map_err(|_| Error::Form("the root public key"))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::of(&self.0)
    }

    /// What a fuse holds: SHA-256 of the public half.
    pub fn fingerprint(&self) -> Digest {
        sha256(&[&self.public().0])
    }

    /// The key pair, to sign with.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.0
    }
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path).map_err(Error::file(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file(path))
}
