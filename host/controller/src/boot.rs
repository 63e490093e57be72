//! Measuring what runs on the host, and verifying the main board's firmware before reset is released.
//! Everything is extended into one register of the TPM *before* it is used; replaying the list that
//! [`Boot::measurements`] gives yields the register's value.

use crate::{
    Refusal,
    chip::{Chip, Firmware},
};
use aws_lc_rs::digest::{SHA256, digest};
use host_api::{Code, Label, Measured, OutOfService, Sentence, Sha256};
use tpm::Tpm;

/// The register that the controller measures into: the first after those of platform firmware (TCG PC
/// Client Platform Firmware Profile, section 3.3.4).
pub const PCR: u8 = 8;
/// Longest known-good file in bytes.
pub const MAX_KNOWN_GOOD: u64 = 64 * 1024;

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// A measuring register.
pub trait Register {
    /// Extends it.
    fn extend(&mut self, digest: [u8; 32]) -> Result<(), tpm::Error>;
    /// Reads it.
    fn value(&mut self) -> Result<[u8; 32], tpm::Error>;
}

impl Register for Tpm {
    fn extend(&mut self, digest: [u8; 32]) -> Result<(), tpm::Error> {
        self.pcr_extend(PCR, &digest)
    }

    fn value(&mut self) -> Result<[u8; 32], tpm::Error> {
        self.pcr_read(&[PCR])?.get(&PCR).copied().ok_or(tpm::Error::PcrIndex(PCR))
    }
}

/// The hashes that the host may run.
#[derive(Debug, Clone, Default)]
pub struct KnownGood(Vec<(Sha256, Label)>);

impl KnownGood {
    /// Reads lines of `<SHA-256>  <name>`, as `sha256sum` writes them; blank lines and lines that start with
    /// `#` say nothing. `None` if a line is something else, or if there is no hash at all.
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries: Option<Vec<_>> = lines
            .map(|line| {
                let (hash, name) = line.split_once(char::is_whitespace)?;
                Some((hash.parse().ok()?, name.trim().parse().ok()?))
            })
            .collect();
        entries.filter(|entries| !entries.is_empty()).map(Self)
    }

    /// The name under which a hash is known.
    pub fn name_of(&self, hash: &Sha256) -> Option<&Label> {
        self.0.iter().find(|(known, _)| known == hash).map(|(_, name)| name)
    }
}

/// What has been measured so far.
#[derive(Debug)]
pub struct Boot<R> {
    register: R,
    measurements: Vec<Measured>,
}

impl<R: Register> Boot<R> {
    /// Begins with a register.
    pub fn new(register: R) -> Self {
        Self { register, measurements: Vec::new() }
    }

    /// Measures bytes that will be used.
    pub fn measure(&mut self, what: &str, bytes: &[u8]) -> Result<(), tpm::Error> {
        self.measure_digest(what, sha256(bytes))
    }

    /// Measures something by its SHA-256.
    pub fn measure_digest(&mut self, what: &str, digest: [u8; 32]) -> Result<(), tpm::Error> {
        self.register.extend(digest)?;
        if let Ok(what) = what.parse() {
            self.measurements.push(Measured { pcr: PCR.into(), what, sha256: Sha256::from_digest(&digest) });
        }
        Ok(())
    }

    /// The register itself, to unseal with.
    pub fn register(&mut self) -> &mut R {
        &mut self.register
    }

    /// Ends the boot: the list of measurements and the register's value.
    pub fn finish(mut self) -> Result<(Vec<Measured>, Sha256), tpm::Error> {
        let value = self.register.value()?;
        Ok((self.measurements, Sha256::from_digest(&value)))
    }
}

/// Why a host goes out of service.
pub fn out_of_service(code: &str, message: &str) -> Option<OutOfService> {
    let code: Code = code.parse().ok()?;
    Some(OutOfService { code, message: Sentence::from_lossy(message) })
}

/// What firmware verification found.
#[derive(Debug)]
pub enum Verdict {
    /// The flash holds firmware that is known good.
    Good(Firmware),
    /// It holds something else.
    Unknown(Firmware),
    /// It could not be measured.
    Unmeasured(Refusal),
}

impl Verdict {
    /// Why the host cannot be in service, if it cannot.
    pub fn objection(&self) -> Option<OutOfService> {
        match self {
            Self::Good(_) => None,
            Self::Unknown(hash) => out_of_service(
                "boot.firmware",
                &format!(
                    "main-board firmware {hash} is not in the known-good set: repair the flash, then boot anew"
                ),
            ),
            Self::Unmeasured(refusal) => out_of_service(
                "boot.chip",
                &format!("the firmware could not be measured: {}", refusal.message),
            ),
        }
    }
}

/// Measures the firmware in the chip's flash and compares it with what is known to be good.
pub fn verify(chip: &mut Chip, known_good: &KnownGood) -> Verdict {
    match chip.measure() {
        Ok(firmware) if firmware.all().all(|hash| known_good.name_of(hash).is_some()) => {
            Verdict::Good(firmware)
        }
        Ok(firmware) => Verdict::Unknown(firmware),
        Err(refusal) => Verdict::Unmeasured(refusal),
    }
}

#[cfg(test)]
mod tests;
