//! What the TPM gives out in the approved state, in two steps: the host's identity and log key, when the controller
//! and its settings are the known-good ones; the firmware store's secret, when all images and the main board's
//! firmware are, too.

use super::{Halt, known_good::Signed, state};
use host_log::LogKey;
use service::{Key, process::Failure};
use std::path::Path;
use tpm::{Approval, Error, Policy, Tpm};
use zeroize::Zeroizing;

/// What approvals of the early compartment are for.
pub const EARLY: &[u8] = b"azote/early/1";
/// What approvals of the store are for.
pub const STORE: &[u8] = b"azote/store/1";
/// Longest sealed file in bytes.
const MAX_SEALED: usize = 8 * 1024;
const SEED: usize = 32;

/// The early compartment.
pub struct Early {
    /// The host's identity.
    pub identity: Key,
    /// The key of its log.
    pub log: Zeroizing<Vec<u8>>,
}

impl Early {
    /// New keys.
    pub fn generate() -> Result<Self, Failure> {
        let mut log = Zeroizing::new(vec![0; LogKey::LENGTH]);
        aws_lc_rs::rand::fill(&mut log).map_err(|_| "no random bytes")?;
        Ok(Self { identity: Key::generate()?, log })
    }

    /// Seals it to what the set key approves.
    pub fn seal(&self, tpm: &mut Tpm, path: &Path, set_key: &[u8]) -> Result<(), Failure> {
        let secret = Zeroizing::new([&self.identity.seed()[..], &self.log].concat());
        seal(tpm, path, set_key, EARLY, &secret)
    }

    /// Opens it.
    pub fn open(tpm: &mut Tpm, path: &Path, set_key: &[u8], signed: &Signed) -> Result<Self, Halt> {
        let secret = open(tpm, path, set_key, EARLY, &signed.early)?;
        let wrong =
            || Halt::new("boot.sealed", ENTRY, "it holds something else: the host needs a factory reset");
        let (seed, log) = secret.split_at_checked(SEED).ok_or_else(wrong)?;
        let identity = Key::from_seed(seed).map_err(|_| wrong())?;
        LogKey::new(log).ok_or_else(wrong)?;
        Ok(Self { identity, log: log.to_vec().into() })
    }
}

const ENTRY: &str = "sealed keys";

/// Seals a secret into a file; durable on return.
pub fn seal(
    tpm: &mut Tpm,
    path: &Path,
    set_key: &[u8],
    reference: &[u8],
    secret: &[u8],
) -> Result<(), Failure> {
    let blob = tpm.seal(secret, Policy::Authorized { key: set_key, reference })?;
    Ok(service::write_atomic(path, &blob)?)
}

/// Has the TPM open a file.
pub fn open(
    tpm: &mut Tpm,
    path: &Path,
    set_key: &[u8],
    reference: &[u8],
    approval: &Approval,
) -> Result<Zeroizing<Vec<u8>>, Halt> {
    let blob = state::need(path, MAX_SEALED, "boot.sealed", ENTRY)?;
    tpm.unseal_approved(&blob, set_key, reference, approval).map_err(|error| halt(&error))
}

fn halt(error: &Error) -> Halt {
    let halt = |code, entry, what: &str| Halt::new(code, entry, &format!("{error}: {what}"));
    match error {
        Error::Policy => halt(
            "boot.log",
            "event log",
            "the registers do not hold what the event log says. Switch the host off and on; if that does not help, \
             something ran that is not in the log",
        ),
        Error::Rollback => halt(
            "boot.rollback",
            "known-good set",
            "this set is older than what the host ran; install a later one",
        ),
        Error::Approval | Error::Key => halt(
            "boot.set",
            "known-good set",
            "the set is altered, or another TPM's; put it back from a copy",
        ),
        Error::Integrity | Error::Blob => {
            halt("boot.sealed", ENTRY, "put the file back from a copy, or reset the host to its first state")
        }
        _ => halt("boot.tpm", "tpm", "the TPM does not do its work"),
    }
}
