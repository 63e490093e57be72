//! The authorities of an environment. It gives services, tenants and operators X.509 certificates whose one name is an
//! identity; hosts get theirs only after their TPM, which a manufacturer certified, has proved which host it is and
//! that it runs a release of the environment. It takes no name from a request and knows no rights. It stands at the
//! root of trust of an environment; what it reads from others, requests and hosts' proofs, is hostile.
//!
//! The authorities' keys are files that only their owner can read. That is enough for a lab; a production
//! environment keeps them offline or in a hardware module.
#![forbid(unsafe_code)]

mod attestation;
mod authority;
mod ca;
mod care;
mod dialog;
mod error;
mod manufacturer;
mod registry;

pub use attestation::Attestation;
pub use authority::{Authority, Lives, PATIENCE, Pending, Release};
pub use ca::Ca;
pub use care::{Act, Care, Found, Terms};
pub use dialog::{Answer, Challenge, Encoded, Identity, MAX_MESSAGE, Measured, Request};
pub use error::Error;
pub use manufacturer::Manufacturer;
pub use registry::{Member, State};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SerialNumber};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Longest life of a certificate that the authority issues.
pub const MAX_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Longest certificate request in bytes of PEM.
pub const MAX_REQUEST: usize = 8 * 1024;
/// Clocks may be apart by this much.
const BACKDATED: Duration = Duration::from_secs(60);

/// A random number for a certificate, 127 bits (RFC 5280 §4.1.2.2).
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Sign)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
    params
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    Ok(KeyPair::from_pem(&Zeroizing::new(read(path)?))?)
}

/// The file is there whole and durable, or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let write = || {
        // What a crash has left of it goes: it may be another's to read.
        let _ = std::fs::remove_file(&unfinished);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Unlike a rename, a link replaces nothing.
        let linked = std::fs::hard_link(&unfinished, path);
        std::fs::remove_file(&unfinished)?;
        linked?;
        path.parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}

/// A reader or a crash sees the old file or the new one whole; durable on return.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".next");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        path.parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}
