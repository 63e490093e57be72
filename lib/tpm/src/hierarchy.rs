//! The TPM's hierarchies: who may own it, its storage root, its clock, and its end (part 1, §14).

use crate::{
    Error, Name, Tpm,
    credential::ek_template,
    frame::{Auth, Command, Request, Secret},
    name,
    quote::{Clock, bytes, ecc_template},
};
use tpm2_protocol::{
    basic::{TpmHandle, TpmUint16},
    data::{
        Tpm2bAuth, Tpm2bPublic, TpmAlgId, TpmPt, TpmRh, TpmaObject, TpmtEccScheme, TpmtPublic,
        TpmtSymDefObject, TpmuSymKeyBits, TpmuSymMode,
    },
    frame::{
        TpmClearCommand, TpmClearResponse, TpmEvictControlCommand, TpmEvictControlResponse,
        TpmHierarchyChangeAuthCommand, TpmReadClockCommand, TpmReadClockResponse, TpmReadPublicCommand,
        TpmReadPublicResponse,
    },
};

/// The persistent handle of the storage root key (TCG handle registry, §2.3.1).
pub const STORAGE_ROOT: u32 = 0x8100_0001;

/// The persistent handle of the endorsement key (the same, §2.3.2).
pub(crate) const ENDORSEMENT_KEY: u32 = 0x8101_0002;

/// A key in the TPM.
pub(crate) struct Object {
    pub(crate) handle: TpmHandle,
    /// Computed from its public part, whatever the TPM says.
    pub(crate) name: Name,
    /// `TPM2B_PUBLIC`.
    pub(crate) public: Vec<u8>,
}

impl Object {
    pub(crate) fn new(handle: TpmHandle, public: &Tpm2bPublic) -> Result<Self, Error> {
        let public = bytes(public)?;
        Ok(Self { handle, name: name(&public).map_err(|_| Error::Key)?, public })
    }
}

/// An authorisation value of its own for a part of the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// Defines NV indices, makes keys below the storage seed.
    Owner,
    /// Clears the TPM.
    Lockout,
}

impl Tpm {
    /// Gives a hierarchy another authorisation value (at most 32 bytes, empty at first).
    pub fn set_auth(&mut self, hierarchy: Hierarchy, present: &[u8], next: &[u8]) -> Result<(), Error> {
        let handle = match hierarchy {
            Hierarchy::Owner => TpmRh::Owner,
            Hierarchy::Lockout => TpmRh::Lockout,
        };
        let new_auth = Tpm2bAuth::try_from(vec![0; next.len()].as_slice())?;
        let command = TpmHierarchyChangeAuthCommand { handles: [handle.value().into()], new_auth };
        let command = Command::new(&command)?.with_secret(2, next)?;
        let auths = [Auth::Value(present)];
        let request = Request { secret: Secret::In, next: Some(next), ..Request::by(&auths, &[]) };
        self.send(command, &request, 0).map(drop)
    }

    /// Makes the storage root key anew and keeps it at [`STORAGE_ROOT`], so that sealing needs no owner. What was
    /// there before goes: it may be somebody's whose private half is known. Keeps the endorsement key, too, so that
    /// [`Tpm::secure`] need not wait for it.
    pub fn make_storage_root(&mut self, owner: &[u8]) -> Result<(), Error> {
        let keys = [
            (STORAGE_ROOT, TpmRh::Owner, storage_template(), owner),
            (ENDORSEMENT_KEY, TpmRh::Endorsement, ek_template()?, &[]),
        ];
        for (place, hierarchy, template, auth) in keys {
            if let Some(present) = self.read_public(place)? {
                self.evict(owner, &present, place)?;
            }
            self.with_primary(hierarchy, auth, template, |tpm, key| tpm.evict(owner, key, place))?;
        }
        Ok(())
    }

    /// Makes a loaded object persistent, or a persistent one go.
    fn evict(&mut self, owner: &[u8], object: &Object, place: u32) -> Result<(), Error> {
        let handles = [TpmRh::Owner.value().into(), object.handle];
        let command = TpmEvictControlCommand { handles, persistent_handle: place.into() };
        let (auths, names) = ([Auth::Value(owner)], [&[][..], &object.name]);
        self.call::<_, TpmEvictControlResponse>(&command, &Request::by(&auths, &names)).map(drop)
    }

    /// What is at a persistent handle, if anything. Nobody vouches for the answer until its name is used.
    pub(crate) fn read_public(&mut self, handle: u32) -> Result<Option<Object>, Error> {
        let handle = TpmHandle::from(handle);
        match self.call(&TpmReadPublicCommand { handles: [handle] }, &Request::OUTSIDE) {
            Err(Error::Absent) => Ok(None),
            found => {
                let found: TpmReadPublicResponse = found?;
                Object::new(handle, &found.out_public).map(Some)
            }
        }
    }

    /// Runs `with` with the storage root key: the persistent one, else one made for this time, which needs an
    /// owner without authorisation value. Both are the same key.
    pub(crate) fn with_storage_root<T>(
        &mut self,
        with: impl FnOnce(&mut Self, &Object) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(found) = self.read_public(STORAGE_ROOT)? else {
            return self.with_primary(TpmRh::Owner, &[], storage_template(), with);
        };
        // With these attributes this TPM made it, and nobody else has it.
        let public: Tpm2bPublic = crate::quote::whole(&found.public).map_err(|_| Error::StorageRoot)?;
        if public.inner.object_attributes != storage_template().object_attributes {
            return Err(Error::StorageRoot);
        }
        with(self, &found)
    }

    /// Forgets its owner: everything ever sealed, all NV indices of the owner, all authorisation values. The
    /// endorsement key stays; counters do not start over (part 3, `TPM2_Clear`).
    pub fn clear(&mut self, lockout: &[u8]) -> Result<(), Error> {
        let command = TpmClearCommand { handles: [TpmRh::Lockout.value().into()] };
        let auths = [Auth::Value(lockout)];
        // The value is empty from then on.
        let next = Some(&[][..]).filter(|_| !lockout.is_empty());
        self.call::<_, TpmClearResponse>(&command, &Request { next, ..Request::by(&auths, &[]) }).map(drop)
    }

    /// The TPM's clock, unsigned.
    pub fn clock(&mut self) -> Result<Clock, Error> {
        let command = TpmReadClockCommand { handles: [] };
        let response: TpmReadClockResponse = self.call(&command, &Request::default())?;
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
    ecc_template(TpmaObject::DECRYPT | TpmaObject::RESTRICTED, aes(), TpmtEccScheme::default())
}

/// AES-128 in cipher feedback mode, which every TPM has.
pub(crate) fn aes() -> TpmtSymDefObject {
    TpmtSymDefObject {
        algorithm: TpmAlgId::Aes,
        key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
        mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
    }
}
