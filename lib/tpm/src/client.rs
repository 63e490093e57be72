//! Commands to the TPM.

use crate::{
    Digest, MAX_PCR, Measurement, PcrValues,
    port::{self, MAX_FRAME, Stream},
};
use std::{fmt, io, path::Path, thread::sleep, time::Duration};
use tpm2_protocol::{
    TpmError, TpmWriter,
    basic::{TpmBuffer, TpmHandle, TpmUint16, TpmUint32},
    data::{
        Tpm2bAuth, Tpm2bDigest, Tpm2bEncryptedSecret, Tpm2bNonce, Tpm2bPublic, TpmAlgId, TpmCap, TpmHt,
        TpmPt, TpmRh, TpmSe, TpmSt, TpmaSession, TpmlDigestValues, TpmlPcrSelection, TpmsAuthCommand,
        TpmsPcrSelect, TpmsPcrSelection, TpmtHa, TpmtPublic, TpmtSymDefObject, TpmuCapabilities, TpmuHa,
    },
    frame::{
        TpmCreatePrimaryCommand, TpmCreatePrimaryResponse, TpmFlushContextCommand, TpmFlushContextResponse,
        TpmFrame, TpmGetCapabilityCommand, TpmGetCapabilityResponse, TpmGetRandomCommand,
        TpmGetRandomResponse, TpmPcrExtendCommand, TpmPcrExtendResponse, TpmPcrReadCommand,
        TpmPcrReadResponse, TpmResponse, TpmStartAuthSessionCommand, TpmStartAuthSessionResponse,
        TpmUnmarshalBody, tpm_marshal_command,
    },
};
use zeroize::Zeroizing;

/// Why the TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached or stopped answering. The connection is of no more use: connect again.
    #[error("the TPM cannot be reached; check its path and that no other client holds it: {0}")]
    Io(#[from] io::Error),
    /// It answered what is no TPM 2.0 response, or the request does not fit one.
    #[error("the TPM and this client do not understand each other: {0}")]
    Malformed(#[from] TpmError),
    /// PCRs have other values than the secret was sealed to.
    #[error("the TPM does not unseal: the measured state is not the one that the secret was sealed to")]
    Policy,
    /// The blob was sealed by another TPM, or the TPM was cleared since, or the blob was altered.
    #[error("the TPM does not unseal: the blob is altered or comes from another TPM")]
    Integrity,
    /// The blob is no sealed blob of a known format.
    #[error("this is no sealed blob of a known format")]
    Blob,
    /// Too long to seal or to be a nonce.
    #[error("the data has a length that is not allowed here")]
    Length,
    /// Not a PCR that may be used.
    #[error("PCR {0} is not one of 0 to {MAX_PCR}")]
    PcrIndex(u8),
    /// The floor counter has passed what the secret's approval allows.
    #[error("the TPM does not unseal: the approval is for releases older than the floor")]
    Rollback,
    /// An authorisation value is wrong, or there is none where one is needed.
    #[error("the TPM refuses the authorisation value")]
    Auth,
    /// An NV index is locked for good.
    #[error("the NV index is written and locked; only clearing the TPM frees it")]
    Locked,
    /// A handle means nothing: an object or an NV index is not there.
    #[error("the TPM has nothing at this handle")]
    Absent,
    /// A signing key is no key of this TPM's.
    #[error("this is no key that this crate made")]
    Key,
    /// An approval has another form, or another key signed it, or for something else.
    #[error("the approval is altered or was signed for something else")]
    Approval,
    /// A signature that the TPM was asked to check is wrong.
    #[error("the TPM says that the signature is wrong")]
    Signature,
    /// A parameter has a value that the TPM does not take.
    #[error("the TPM does not take a value")]
    Value,
    /// No PCR was named where one is needed.
    #[error("name at least one PCR")]
    NoPcr,
    /// What is at the place of the storage root key is another kind of key.
    #[error("the TPM's storage root key is not one that the TPM made for itself; clear the TPM")]
    StorageRoot,
    /// Any other refusal, with the TPM's response code.
    #[error("the TPM refused with response code {0:#05x}")]
    Refused(u32),
}

impl Error {
    /// The stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "tpm.unreachable",
            Self::Malformed(_) => "tpm.malformed",
            Self::Policy => "tpm.policy",
            Self::Integrity | Self::Blob => "tpm.blob",
            Self::Rollback => "tpm.rollback",
            Self::Auth => "tpm.auth",
            Self::Locked => "tpm.locked",
            Self::Absent => "tpm.absent",
            Self::StorageRoot => "tpm.storage-root",
            Self::Key => "tpm.key",
            Self::Approval | Self::Signature => "tpm.approval",
            Self::Length | Self::PcrIndex(_) | Self::NoPcr | Self::Value => "tpm.argument",
            Self::Refused(_) => "tpm.refused",
        }
    }
}

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING` and `TPM_RC_RETRY` (part 2, §6.6.3): ask again.
const RETRY: [u32; 3] = [0x908, 0x90a, 0x922];
const RETRIES: u32 = 20;
/// A format 1 response code without the number of the handle, session or parameter at fault (part 2, §6.6.2).
const FORMAT_1: u32 = 0xbf;
const VALUE: u32 = 0x84;
const HANDLE: u32 = 0x8b;
const AUTH_FAIL: u32 = 0x8e;
const SIGNATURE: u32 = 0x9b;
const POLICY_FAIL: u32 = 0x9d;
const INTEGRITY: u32 = 0x9f;
const BAD_AUTH: u32 = 0xa2;
/// `TPM_RC_NV_LOCKED` and `TPM_RC_POLICY`, which is what a comparison in a policy gives (part 2, §6.6.3).
const NV_LOCKED: u32 = 0x148;
const POLICY: u32 = 0x126;

/// A connection to one TPM. A software TPM serves one connection at a time: drop it when done.
pub struct Tpm {
    stream: Option<Box<dyn Stream>>,
}

impl fmt::Debug for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tpm")
    }
}

impl Tpm {
    /// Connects to a TPM: a Unix stream socket (swtpm) or a character device (`/dev/tpmrm0`). Waits up to 30
    /// seconds for another client to leave. Flushes what earlier clients left loaded when they died: there is
    /// no resource manager behind a socket, and behind the device there is nothing to see.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let mut tpm = Self { stream: Some(port::open(path)?) };
        for kind in [TpmHt::Transient, TpmHt::HmacSession] {
            for handle in tpm.loaded(kind)? {
                tpm.flush(handle)?;
            }
        }
        Ok(tpm)
    }

    /// The handles of one kind, which is their top byte (part 2, §7.2). `HmacSession` asks for every loaded session.
    pub(crate) fn loaded(&mut self, kind: TpmHt) -> Result<Vec<TpmHandle>, Error> {
        let property = (u32::from(kind.value()) << 24).into();
        let command = TpmGetCapabilityCommand {
            handles: [],
            cap: TpmCap::Handles,
            property,
            property_count: TpmUint32::new(64),
        };
        let response: TpmGetCapabilityResponse = self.call(&command, &[])?;
        match response.capability_data.data {
            TpmuCapabilities::Handles(handles) => {
                Ok(handles.iter().map(|handle| handle.value().into()).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// One of the TPM's properties (part 2, §6.13).
    pub(crate) fn property(&mut self, property: TpmPt) -> Result<u32, Error> {
        let command = TpmGetCapabilityCommand {
            handles: [],
            cap: TpmCap::TpmProperties,
            property: property.value().into(),
            property_count: TpmUint32::new(1),
        };
        let response: TpmGetCapabilityResponse = self.call(&command, &[])?;
        let TpmuCapabilities::TpmProperties(found) = response.capability_data.data else {
            return Err(Error::Absent);
        };
        let found = found.iter().find(|found| found.property == property);
        Ok(found.ok_or(Error::Absent)?.value.value())
    }

    fn flush(&mut self, flush_handle: TpmHandle) -> Result<(), Error> {
        let command = TpmFlushContextCommand { handles: [], flush_handle };
        self.call::<_, TpmFlushContextResponse>(&command, &[]).map(|_| ())
    }

    /// Takes any byte stream to a TPM that has been started up.
    pub fn new(stream: impl io::Read + io::Write + Send + 'static) -> Self {
        Self { stream: Some(Box::new(stream)) }
    }

    /// Extends `digest` into a PCR of the SHA-256 bank (part 3, `TPM2_PCR_Extend`).
    pub fn pcr_extend(&mut self, pcr: u8, digest: &Digest) -> Result<(), Error> {
        select([pcr])?;
        let mut digests = TpmlDigestValues::new();
        let digest = TpmuHa::Digest(TpmBuffer::try_from(&digest[..])?);
        digests.try_push(TpmtHa { hash_alg: TpmAlgId::Sha256, digest })?;
        let command = TpmPcrExtendCommand { handles: [u32::from(pcr).into()], digests };
        self.call::<_, TpmPcrExtendResponse>(&command, &[empty_password()])?;
        Ok(())
    }

    /// Extends and gives the entry for the measurement log.
    pub fn measure(&mut self, pcr: u8, digest: Digest, description: &str) -> Result<Measurement, Error> {
        self.pcr_extend(pcr, &digest)?;
        Ok(Measurement { pcr, digest, description: description.to_owned() })
    }

    /// The present values of `pcrs` in the SHA-256 bank (part 3, `TPM2_PCR_Read`).
    pub fn pcr_read(&mut self, pcrs: &[u8]) -> Result<PcrValues, Error> {
        let mut values = PcrValues::new();
        for &pcr in pcrs {
            let command = TpmPcrReadCommand { handles: [], pcr_selection_in: select([pcr])? };
            let response: TpmPcrReadResponse = self.call(&command, &[])?;
            let value = response.pcr_values.first().map(|digest| Digest::try_from(&digest[..]));
            // A TPM without this PCR or this bank gives an empty list.
            let Some(Ok(value)) = value else { return Err(Error::PcrIndex(pcr)) };
            values.insert(pcr, value);
        }
        Ok(values)
    }

    /// `count` bytes from the TPM's random number generator.
    pub fn random(&mut self, count: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(count));
        while bytes.len() < count {
            let wanted = u16::try_from((count - bytes.len()).min(32)).unwrap_or(32);
            let command = TpmGetRandomCommand { handles: [], bytes_requested: TpmUint16::new(wanted) };
            let response: TpmGetRandomResponse = self.call(&command, &[])?;
            let got = response.random_bytes.get(..usize::from(wanted)).unwrap_or(&response.random_bytes);
            if got.is_empty() {
                return Err(Error::Length);
            }
            bytes.extend_from_slice(got);
        }
        Ok(bytes)
    }

    /// Makes a primary key from a template: the same TPM seed and template give the same key. The handle
    /// lives as long as `with` runs.
    pub(crate) fn with_primary<T>(
        &mut self,
        hierarchy: TpmRh,
        auth: &[u8],
        template: TpmtPublic,
        with: impl FnOnce(&mut Self, TpmHandle, Tpm2bPublic) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let command = TpmCreatePrimaryCommand {
            handles: [hierarchy.value().into()],
            in_public: Tpm2bPublic { inner: template },
            ..Default::default()
        };
        let made: TpmCreatePrimaryResponse = self.call(&command, &[password(auth)?])?;
        let [handle] = made.handles;
        self.with_context(handle, |tpm| with(tpm, handle, made.out_public))
    }

    /// Runs `with` and flushes `handle` whatever came out: a TPM has room for three objects.
    pub(crate) fn with_context<T>(
        &mut self,
        handle: TpmHandle,
        with: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = with(self);
        let flushed = self.flush(handle);
        outcome.and_then(|value| flushed.map(|()| value))
    }

    /// Runs `with` with a fresh policy session.
    pub(crate) fn with_policy_session<T>(
        &mut self,
        with: impl FnOnce(&mut Self, TpmHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::Length)?;
        let start = TpmStartAuthSessionCommand {
            handles: [TpmRh::Null.value().into(); 2],
            nonce_caller: Tpm2bNonce::try_from(&nonce[..])?,
            encrypted_salt: Tpm2bEncryptedSecret::new(),
            session_type: TpmSe::Policy,
            symmetric: TpmtSymDefObject::default(),
            auth_hash: TpmAlgId::Sha256,
        };
        let started: TpmStartAuthSessionResponse = self.call(&start, &[])?;
        let [handle] = started.handles;
        self.with_context(handle, |tpm| with(tpm, handle))
    }

    pub(crate) fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        auth: &[TpmsAuthCommand],
    ) -> Result<R, Error> {
        let response = self.exchange(&frame(command, auth)?)?;
        Ok(TpmResponse::cast(&response)?.unmarshal()?)
    }

    /// Sends a whole command; gives a whole successful response.
    pub(crate) fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut attempt = 0;
        loop {
            // Taken out, so that after a failure nobody reads the answer to somebody else's question.
            let mut stream =
                self.stream.take().ok_or(io::ErrorKind::NotConnected).map_err(io::Error::from)?;
            let response = port::exchange(&mut *stream, command)?;
            self.stream = Some(stream);
            match port::code(&response) {
                0 => return Ok(response),
                code if RETRY.contains(&code) && attempt < RETRIES => {
                    sleep(Duration::from_millis(1 << attempt.min(7)));
                    attempt += 1;
                }
                code => return Err(refusal(code)),
            }
        }
    }
}

fn refusal(code: u32) -> Error {
    match (code, code & FORMAT_1) {
        (NV_LOCKED, _) => Error::Locked,
        (POLICY, _) => Error::Rollback,
        (_, POLICY_FAIL) => Error::Policy,
        (_, INTEGRITY) => Error::Integrity,
        (_, SIGNATURE) => Error::Signature,
        (_, VALUE) => Error::Value,
        (_, HANDLE) => Error::Absent,
        (_, AUTH_FAIL | BAD_AUTH) => Error::Auth,
        _ => Error::Refused(code),
    }
}

/// A whole command. Zeroized on drop: some carry secrets.
pub(crate) fn frame<C: TpmFrame>(
    command: &C,
    auth: &[TpmsAuthCommand],
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let mut bytes = Zeroizing::new(vec![0; MAX_FRAME]);
    let mut writer = TpmWriter::new(&mut bytes);
    let tag = if auth.is_empty() { TpmSt::NoSessions } else { TpmSt::Sessions };
    tpm_marshal_command(command, tag, auth, &mut writer)?;
    let length = writer.len();
    bytes.truncate(length);
    Ok(bytes)
}

/// Authorises with an empty password (part 1, §19.4).
pub(crate) fn empty_password() -> TpmsAuthCommand {
    session(TpmRh::Pw.value().into())
}

/// Authorises with a password of at most 64 bytes.
pub(crate) fn password(auth: &[u8]) -> Result<TpmsAuthCommand, TpmError> {
    Ok(TpmsAuthCommand { hmac: Tpm2bAuth::try_from(auth)?, ..empty_password() })
}

/// Authorises with a session that stays until it is flushed.
pub(crate) fn session(session_handle: TpmHandle) -> TpmsAuthCommand {
    TpmsAuthCommand {
        session_handle,
        nonce: Tpm2bNonce::new(),
        session_attributes: TpmaSession::CONTINUE_SESSION,
        hmac: Tpm2bAuth::new(),
    }
}

/// A selection of PCRs of the SHA-256 bank.
pub(crate) fn select(pcrs: impl IntoIterator<Item = u8>) -> Result<TpmlPcrSelection, Error> {
    let mut mask = 0u32;
    for pcr in pcrs {
        if pcr > MAX_PCR {
            return Err(Error::PcrIndex(pcr));
        }
        mask |= 1 << pcr;
    }
    let [a, b, c, _] = mask.to_le_bytes();
    let mut selection = TpmlPcrSelection::new();
    let pcr_select = TpmsPcrSelect::try_from(&[a, b, c][..])?;
    selection.try_push(TpmsPcrSelection { hash: TpmAlgId::Sha256, pcr_select })?;
    Ok(selection)
}

/// The mask of the PCRs that have values here.
pub(crate) fn pcr_mask(values: &PcrValues) -> u32 {
    values.keys().fold(0, |mask, pcr| mask | 1u32.checked_shl((*pcr).into()).unwrap_or(0))
}

/// The selection that a mask stands for, of at least one PCR.
pub(crate) fn selection(mask: u32) -> Result<TpmlPcrSelection, Error> {
    if mask == 0 {
        return Err(Error::NoPcr);
    }
    select((0..=31).filter(|&pcr| mask >> pcr & 1 == 1))
}

/// A digest as the TPM's sized buffer.
pub(crate) fn sized(digest: &Digest) -> Result<Tpm2bDigest, TpmError> {
    Tpm2bDigest::try_from(&digest[..])
}
