//! The TPM's hierarchies: who may own it, its storage root, its clock, and its end (part 1, §14).

use crate::{
    Error, Tpm,
    client::password,
    quote::{Clock, ecc_template},
};
use tpm2_protocol::{
    basic::{TpmHandle, TpmUint16},
    data::{
        Tpm2bAuth, TpmAlgId, TpmHt, TpmPt, TpmRh, TpmaObject, TpmtEccScheme, TpmtPublic, TpmtSymDefObject,
        TpmuSymKeyBits, TpmuSymMode,
    },
    frame::{
        TpmClearCommand, TpmClearResponse, TpmEvictControlCommand, TpmEvictControlResponse,
        TpmHierarchyChangeAuthCommand, TpmHierarchyChangeAuthResponse, TpmReadClockCommand,
        TpmReadClockResponse, TpmReadPublicCommand, TpmReadPublicResponse,
    },
};

/// The persistent handle of the storage root key (TCG handle registry, §2.3.1).
pub const STORAGE_ROOT: u32 = 0x8100_0001;

/// An authorisation value of its own for a part of the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// Defines NV indices, makes keys below the storage seed.
    Owner,
    /// Clears the TPM.
    Lockout,
}

impl Tpm {
    /// Gives a hierarchy another authorisation value (at most 32 bytes, empty at first). The value goes over
    /// the bus in the clear: set it before anybody listens.
    pub fn set_auth(&mut self, hierarchy: Hierarchy, present: &[u8], next: &[u8]) -> Result<(), Error> {
        let handle = match hierarchy {
            Hierarchy::Owner => TpmRh::Owner,
            Hierarchy::Lockout => TpmRh::Lockout,
        };
        let new_auth = Tpm2bAuth::try_from(next)?;
        let command = TpmHierarchyChangeAuthCommand { handles: [handle.value().into()], new_auth };
        self.call::<_, TpmHierarchyChangeAuthResponse>(&command, &[password(present)?]).map(drop)
    }

    /// Makes the storage root key anew and keeps it at [`STORAGE_ROOT`], so that sealing needs no owner. What was
    /// there before goes: it may be somebody's whose private half is known.
    pub fn make_storage_root(&mut self, owner: &[u8]) -> Result<(), Error> {
        if self.loaded(TpmHt::Persistent)?.contains(&STORAGE_ROOT.into()) {
            self.evict(owner, STORAGE_ROOT.into())?;
        }
        self.with_primary(TpmRh::Owner, owner, storage_template(), |tpm, handle, _| tpm.evict(owner, handle))
    }

    /// Makes a loaded object persistent, or a persistent one go.
    fn evict(&mut self, owner: &[u8], handle: TpmHandle) -> Result<(), Error> {
        let handles = [TpmRh::Owner.value().into(), handle];
        let command = TpmEvictControlCommand { handles, persistent_handle: STORAGE_ROOT.into() };
        self.call::<_, TpmEvictControlResponse>(&command, &[password(owner)?]).map(drop)
    }

    /// Runs `with` with the storage root key: the persistent one, else one made for this time, which needs an
    /// owner without authorisation value. Both are the same key.
    pub(crate) fn with_storage_root<T>(
        &mut self,
        with: impl FnOnce(&mut Self, TpmHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.loaded(TpmHt::Persistent)?.contains(&STORAGE_ROOT.into()) {
            let command = TpmReadPublicCommand { handles: [STORAGE_ROOT.into()] };
            let found: TpmReadPublicResponse = self.call(&command, &[])?;
            // With these attributes this TPM made it, and nobody else has it.
            if found.out_public.inner.object_attributes != storage_template().object_attributes {
                return Err(Error::StorageRoot);
            }
            return with(self, STORAGE_ROOT.into());
        }
        self.with_primary(TpmRh::Owner, &[], storage_template(), |tpm, handle, _| with(tpm, handle))
    }

    /// Forgets its owner: everything ever sealed, all NV indices of the owner, all authorisation values. The
    /// endorsement key stays; counters do not start over (part 3, `TPM2_Clear`).
    pub fn clear(&mut self, lockout: &[u8]) -> Result<(), Error> {
        let command = TpmClearCommand { handles: [TpmRh::Lockout.value().into()] };
        self.call::<_, TpmClearResponse>(&command, &[password(lockout)?]).map(drop)
    }

    /// The TPM's clock, unsigned.
    pub fn clock(&mut self) -> Result<Clock, Error> {
        let response: TpmReadClockResponse = self.call(&TpmReadClockCommand { handles: [] }, &[])?;
        Ok(response.current_time.clock_info.into())
    }

    /// Whether the hierarchy has an authorisation value.
    pub fn has_auth(&mut self, hierarchy: Hierarchy) -> Result<bool, Error> {
        let bit = match hierarchy {
            Hierarchy::Owner => 0,
            Hierarchy::Lockout => 2,
        };
        // Part 2, §8.6 (TPMA_PERMANENT).
        Ok(self.property(TpmPt::Permanent)? >> bit & 1 == 1)
    }
}

/// The parent of sealed objects: an ECC storage key from the owner seed.
fn storage_template() -> TpmtPublic {
    let symmetric = TpmtSymDefObject {
        algorithm: TpmAlgId::Aes,
        key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
        mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
    };
    ecc_template(TpmaObject::DECRYPT | TpmaObject::RESTRICTED, symmetric, TpmtEccScheme::default())
}
