//! Non-volatile memory of the TPM: values that are written once, and counters that only go up (part 3, §31).
//! Everybody may read them; only the owner writes, and only [`Tpm::clear`] or the owner removes them.

use crate::{
    Error, Tpm,
    frame::{Auth, Request},
    quote::bytes,
    sha256,
};
use tpm2_protocol::{
    basic::{TpmHandle, TpmUint16},
    data::{Tpm2bAuth, Tpm2bDigest, Tpm2bMaxNvBuffer, Tpm2bNvPublic, TpmAlgId, TpmRh, TpmaNv, TpmsNvPublic},
    frame::{
        TpmNvDefineSpaceCommand, TpmNvDefineSpaceResponse, TpmNvIncrementCommand, TpmNvIncrementResponse,
        TpmNvReadCommand, TpmNvReadPublicCommand, TpmNvReadPublicResponse, TpmNvReadResponse,
        TpmNvUndefineSpaceCommand, TpmNvUndefineSpaceResponse, TpmNvWriteCommand, TpmNvWriteLockCommand,
        TpmNvWriteLockResponse, TpmNvWriteResponse,
    },
};

/// The index of a host's identity record.
pub const NV_IDENTITY: u32 = 0x0180_0A00;
/// The index of the counter below whose value no release starts.
pub const NV_FLOOR: u32 = 0x0180_0A01;
/// The index where a TPM's maker puts the certificate of the P-256 endorsement key (TCG EK Credential Profile for TPM
/// 2.0, §2.2.1.5), X.509 in DER.
pub const NV_EK_CERTIFICATE: u32 = 0x01C0_000A;
/// Longest value in bytes that one read or write of every TPM takes.
pub const MAX_NV: usize = 768;

/// Size of a counter in bytes.
const COUNTER: u16 = 8;

/// What is known of an index without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvPublic {
    /// The hash algorithm and the hash of all that is here.
    pub name: Vec<u8>,
    /// Length of the value in bytes.
    pub size: u16,
    /// It has a value.
    pub written: bool,
    /// No write changes the value any more.
    pub locked: bool,
    /// It is a counter.
    pub counter: bool,
}

impl Tpm {
    /// Defines an index with `data` (1 to [`MAX_NV`] bytes) for good: everybody reads it, and not even the owner
    /// writes it again. One that a crash in here left unlocked is begun anew; a locked one is [`Error::Locked`].
    pub fn nv_write_once(&mut self, owner: &[u8], index: u32, data: &[u8]) -> Result<(), Error> {
        let size = u16::try_from(data.len()).map_err(|_| Error::Length)?;
        if !(1..=MAX_NV).contains(&data.len()) {
            return Err(Error::Length);
        }
        match self.nv_public(index)? {
            Some(public) if public.locked => return Err(Error::Locked),
            Some(_) => self.nv_undefine(owner, index)?,
            None => {}
        }
        let defined = self.nv_define(owner, index, TpmaNv::OWNERWRITE | TpmaNv::WRITEDEFINE, size)?;
        self.nv_write_and_lock(TpmRh::Owner, owner, defined, data)
    }

    /// What a TPM's maker does before anybody owns it: puts the certificate of its endorsement key where everybody
    /// looks for it, for good. Needs the platform, which a host's first stage closes. No other is written over it.
    pub fn manufacture(&mut self, certificate: &[u8]) -> Result<(), Error> {
        let size = u16::try_from(certificate.len()).map_err(|_| Error::Length)?;
        if !(1..=MAX_NV).contains(&certificate.len()) {
            return Err(Error::Length);
        }
        let kind = TpmaNv::PPWRITE | TpmaNv::PPREAD | TpmaNv::PLATFORMCREATE | TpmaNv::WRITEDEFINE;
        let defined = self.nv_define_by(TpmRh::Platform, &[], NV_EK_CERTIFICATE, kind, size)?;
        self.nv_write_and_lock(TpmRh::Platform, &[], defined, certificate)
    }

    fn nv_write_and_lock(
        &mut self,
        by: TpmRh,
        auth: &[u8],
        mut index: TpmsNvPublic,
        data: &[u8],
    ) -> Result<(), Error> {
        let (handles, data) = ([by.value().into(), index.nv_index], Tpm2bMaxNvBuffer::try_from(data)?);
        let (auths, before) = ([Auth::Value(auth)], nv_name(&index)?);
        let write = TpmNvWriteCommand { handles, data, offset: TpmUint16::new(0) };
        self.call::<_, TpmNvWriteResponse>(&write, &Request::by(&auths, &[&[], &before]))?;
        index.attributes |= TpmaNv::WRITTEN;
        let (lock, after) = (TpmNvWriteLockCommand { handles }, nv_name(&index)?);
        self.call::<_, TpmNvWriteLockResponse>(&lock, &Request::by(&auths, &[&[], &after])).map(drop)
    }

    /// The value of an index, none if it is not defined or has none.
    pub fn nv_read(&mut self, index: u32) -> Result<Option<Vec<u8>>, Error> {
        let Some(public) = self.nv_public(index)?.filter(|public| public.written) else { return Ok(None) };
        if usize::from(public.size) > MAX_NV {
            return Err(Error::Length);
        }
        let (size, offset) = (TpmUint16::new(public.size), TpmUint16::new(0));
        let command = TpmNvReadCommand { handles: [index.into(); 2], size, offset };
        let names = [&public.name[..]; 2];
        let response: TpmNvReadResponse = self.call(&command, &Request::by(&[Auth::Value(&[])], &names))?;
        Ok(Some(response.data.to_vec()))
    }

    /// Defines a counter, or takes the one that is there, and gives its value. A new one begins above all that the
    /// TPM's counters ever were, also after [`Tpm::clear`]: nothing sets one back.
    pub fn nv_define_counter(&mut self, owner: &[u8], index: u32) -> Result<u64, Error> {
        let public = self.nv_public(index)?;
        if public.is_none() {
            self.nv_define(owner, index, TpmaNv::OWNERWRITE | TpmaNv::COUNTER, COUNTER)?;
        }
        if !public.is_some_and(|public| public.written) {
            self.nv_increment(owner, index)?;
        }
        self.nv_counter(index)?.ok_or(Error::Length)
    }

    /// The value of a counter, none if it is not defined or was never incremented.
    pub fn nv_counter(&mut self, index: u32) -> Result<Option<u64>, Error> {
        let Some(bytes) = self.nv_read(index)? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| Error::Length)?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Counts one up.
    pub fn nv_increment(&mut self, owner: &[u8], index: u32) -> Result<(), Error> {
        let (command, name) = (TpmNvIncrementCommand { handles: by_owner(index) }, self.name_of(index)?);
        let (auths, names) = ([Auth::Value(owner)], [&[][..], &name]);
        self.call::<_, TpmNvIncrementResponse>(&command, &Request::by(&auths, &names)).map(drop)
    }

    /// Removes an index and its value.
    pub fn nv_undefine(&mut self, owner: &[u8], index: u32) -> Result<(), Error> {
        let (command, name) = (TpmNvUndefineSpaceCommand { handles: by_owner(index) }, self.name_of(index)?);
        let (auths, names) = ([Auth::Value(owner)], [&[][..], &name]);
        self.call::<_, TpmNvUndefineSpaceResponse>(&command, &Request::by(&auths, &names)).map(drop)
    }

    fn name_of(&mut self, index: u32) -> Result<Vec<u8>, Error> {
        Ok(self.nv_public(index)?.ok_or(Error::Absent)?.name)
    }

    /// What is known of an index, none if it is not defined.
    pub fn nv_public(&mut self, index: u32) -> Result<Option<NvPublic>, Error> {
        let command = TpmNvReadPublicCommand { handles: [index.into()] };
        let response: TpmNvReadPublicResponse = match self.call(&command, &Request::OUTSIDE) {
            Err(Error::Absent) => return Ok(None),
            response => response?,
        };
        let public = response.nv_public.inner;
        // Nobody vouches for the answer; the TPM refuses what is authorised under a name that is not the index's.
        let name = match public.name_alg {
            TpmAlgId::Sha256 => nv_name(&public)?,
            _ => response.nv_name.to_vec(),
        };
        Ok(Some(NvPublic {
            name,
            size: public.data_size.value(),
            written: public.attributes.contains(TpmaNv::WRITTEN),
            locked: public.attributes.contains(TpmaNv::WRITELOCKED),
            counter: public.attributes.contains(TpmaNv::COUNTER),
        }))
    }

    fn nv_define(
        &mut self,
        owner: &[u8],
        index: u32,
        kind: TpmaNv,
        size: u16,
    ) -> Result<TpmsNvPublic, Error> {
        self.nv_define_by(TpmRh::Owner, owner, index, kind, size)
    }

    fn nv_define_by(
        &mut self,
        by: TpmRh,
        auth: &[u8],
        index: u32,
        kind: TpmaNv,
        size: u16,
    ) -> Result<TpmsNvPublic, Error> {
        let attributes = TpmaNv::OWNERREAD | TpmaNv::AUTHREAD | TpmaNv::NO_DA | kind;
        let inner = TpmsNvPublic {
            nv_index: index.into(),
            name_alg: TpmAlgId::Sha256,
            attributes,
            auth_policy: Tpm2bDigest::new(),
            data_size: TpmUint16::new(size),
        };
        let command = TpmNvDefineSpaceCommand {
            handles: [by.value().into()],
            auth: Tpm2bAuth::new(),
            public_info: Tpm2bNvPublic { inner },
        };
        let auths = [Auth::Value(auth)];
        self.call::<_, TpmNvDefineSpaceResponse>(&command, &Request::by(&auths, &[]))?;
        Ok(inner)
    }
}

/// Part 1, §16.
fn nv_name(public: &TpmsNvPublic) -> Result<Vec<u8>, Error> {
    Ok([&TpmAlgId::Sha256.value().to_be_bytes()[..], &sha256([&bytes(public)?[..]])].concat())
}

fn by_owner(index: u32) -> [TpmHandle; 2] {
    [TpmRh::Owner.value().into(), index.into()]
}
