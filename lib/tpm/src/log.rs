//! The measurement log: what was extended, in order, so that a verifier can recompute the PCRs.

use crate::{Digest, Error, MAX_PCR, sha256};
use std::collections::BTreeMap;

/// PCR values of the SHA-256 bank by index.
pub type PcrValues = BTreeMap<u8, Digest>;

/// One extend operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// Which PCR, at most [`MAX_PCR`].
    pub pcr: u8,
    /// What was extended into it.
    pub digest: Digest,
    /// What the digest is of, for people.
    pub description: String,
}

/// The values that the PCRs named in `log` must have if they were zero at its start and nothing else was
/// extended (part 1, §17.4). Refuses indices above [`MAX_PCR`].
pub fn replay(log: &[Measurement]) -> Result<PcrValues, Error> {
    let mut values = PcrValues::new();
    for entry in log {
        if entry.pcr > MAX_PCR {
            return Err(Error::PcrIndex(entry.pcr));
        }
        let value = values.entry(entry.pcr).or_default();
        *value = sha256([&value[..], &entry.digest[..]]);
    }
    Ok(values)
}

/// What `TPM2_PolicyPCR` and `TPM2_Quote` call the PCR digest: the hash over the values in ascending order.
pub(crate) fn digest(values: &PcrValues) -> Digest {
    sha256(values.values().map(Digest::as_slice))
}
