//! Factory reset. The TPM forgets its owner: with the storage seed go the identity, the log's key, the store's key and
//! whatever else was ever sealed, and with the NV memory goes which host this was. What is left on disks is
//! ciphertext that nothing opens (NIST SP 800-88 Rev. 1, §2.6: cryptographic erase). The host says so in a certificate,
//! signed with the identity that exists in memory only by then, and its TPM signs that it was cleared.

use super::Host;
use crate::{Refusal, attest::SharedTpm, boot};
use attest::{Medium, Statement, erasure_nonce};
use boot_rom::record::{FLOOR_INDEX, RECORD_INDEX};
use host_api::{AttestHost, Erased, Nonce, SignedStatement};
use ids::{Environment, Identity};
use std::sync::PoisonError;
use tpm::{Error, Hierarchy, Policy, Tpm};
use zeroize::Zeroizing;

/// What a reset takes.
pub struct Eraser {
    /// The host's TPM.
    pub tpm: SharedTpm,
    /// What clears it.
    pub lockout: Zeroizing<Vec<u8>>,
    /// What the host is for.
    pub environment: Environment,
}

impl Host {
    /// Resets the host for `by`. When its TPM is cleared the host is no more, whatever comes after.
    pub(super) fn reset(&self, by: Option<&Identity>) -> Result<Erased, Refusal> {
        let (Some(eraser), Some(_)) = (&self.eraser, &self.attester) else {
            return Err(Refusal::of("tpm.gone"));
        };
        let mut inner = self.lock();
        if !inner.settings.kept().drained || !inner.state.is_empty() {
            return Err(Refusal::of("host.in-use"));
        }
        inner.parts.chip.hold_all()?;
        let mut tpm = eraser.tpm.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = erase(&mut tpm, &eraser.lockout).map_err(|error| {
            tracing::error!(%error, code = error.code(), "the TPM is not cleared");
            Refusal::of("host.failed")
        })?;
        drop(tpm);
        inner.booted.out_of_service =
            boot::out_of_service("host.erased", &Refusal::of("host.erased").message);
        drop(inner);
        self.ended.notify_one();
        self.testify(eraser.environment, by, &serial)
    }

    fn testify(
        &self,
        environment: Environment,
        by: Option<&Identity>,
        serial: &str,
    ) -> Result<Erased, Refusal> {
        let failed = || Refusal::of("host.failed");
        let host = self.identity.host.clone();
        let mut statement = Statement::new(host, environment, self.clock.seconds(), by.cloned());
        statement.media = media(serial);
        let signed = statement.sign(self.identity.key.pair()).ok_or_else(failed)?;
        let nonce = Nonce::from_bytes(&erasure_nonce(&signed));
        let evidence = self.evidence(&AttestHost { nonce })?;
        Ok(Erased { statement: SignedStatement::from_bytes(&signed).map_err(|_| failed())?, evidence })
    }
}

/// Clears the TPM and looks whether it did; gives the fingerprint of its endorsement key.
fn erase(tpm: &mut Tpm, lockout: &[u8]) -> Result<String, Error> {
    let serial = boot::sha256(&tpm.endorsement_key()?).iter().map(|byte| format!("{byte:02x}")).collect();
    let probe = tpm.seal(b"sealed before", Policy::None)?;
    tpm.clear(lockout)?;
    let gone = tpm.nv_public(RECORD_INDEX)?.is_none() && tpm.nv_public(FLOOR_INDEX)?.is_none();
    let unowned = !tpm.has_auth(Hierarchy::Owner)? && !tpm.has_auth(Hierarchy::Lockout)?;
    let closed = matches!(tpm.unseal(&probe), Err(Error::Integrity));
    if gone && unowned && closed { Ok(serial) } else { Err(Error::Locked) }
}

fn media(serial: &str) -> Vec<Medium> {
    let medium =
        |media_type: &str, serial: &str, contents: &str, technique: &str, verification: &str| Medium {
            media_type: media_type.to_owned(),
            serial_number: serial.to_owned(),
            contents: contents.to_owned(),
            method: "purge".to_owned(),
            technique: technique.to_owned(),
            verification: verification.to_owned(),
        };
    vec![
        medium(
            "TPM 2.0, seeds and non-volatile memory",
            serial,
            "the seed above every sealed key, the identity record, authorisation values",
            "TPM2_Clear: the storage seed is replaced, memory of the owner is deleted",
            "identity record and floor are gone, no authorisation value is set, and what was sealed before does not \
             open; the TPM's signed counters have started over",
        ),
        medium(
            "firmware store, sealed identity and log keys, on the controller's disk",
            "the disk of this controller",
            "firmware images, settings and keys of the host; no customer content",
            "cryptographic erase: AES-256-GCM, under keys that were sealed by the TPM",
            "their key's seed is gone: see the TPM",
        ),
    ]
}
