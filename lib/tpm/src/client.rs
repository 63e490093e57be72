//! Commands to the TPM.

use crate::{
    Digest, Error, MAX_PCR, Measurement, Name, PcrValues,
    error::refusal,
    frame::{Answer, Auth, Command, Request, place},
    hierarchy::Object,
    port::{self, Stream},
    session::Session,
};
use std::{fmt, io, path::Path, thread::sleep, time::Duration};
use tpm2_protocol::{
    TpmError,
    basic::{TpmBuffer, TpmHandle, TpmUint32},
    data::{
        Tpm2bDigest, Tpm2bPublic, TpmAlgId, TpmCap, TpmHt, TpmPt, TpmRh, TpmlDigestValues, TpmlPcrSelection,
        TpmsPcrSelect, TpmsPcrSelection, TpmtHa, TpmtPublic, TpmuCapabilities, TpmuHa,
    },
    frame::{
        TpmCreatePrimaryCommand, TpmCreatePrimaryResponse, TpmFlushContextCommand, TpmFlushContextResponse,
        TpmFrame, TpmGetCapabilityCommand, TpmGetCapabilityResponse, TpmPcrExtendCommand,
        TpmPcrExtendResponse, TpmPcrReadCommand, TpmPcrReadResponse, TpmUnmarshalBody,
    },
};
use zeroize::Zeroizing;

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING` and `TPM_RC_RETRY` (part 2, §6.6.3): ask again.
const RETRY: [u32; 3] = [0x908, 0x90a, 0x922];
const RETRIES: u32 = 20;

/// A connection to one TPM. A software TPM serves one connection at a time: drop it when done.
pub struct Tpm {
    stream: Option<Box<dyn Stream>>,
    pub(crate) session: Option<Session>,
    /// The name of the endorsement key that the session is salted to.
    pub(crate) endorsement: Option<Name>,
}

/// Behind a socket the TPM has room for three sessions; what a process leaves when it is killed, the next flushes.
impl Drop for Tpm {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = self.flush(session.handle);
        }
    }
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
        let mut tpm = Self::over(port::open(path)?);
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
        let response: TpmGetCapabilityResponse = self.call(&command, &Request::default())?;
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
        let response: TpmGetCapabilityResponse = self.call(&command, &Request::default())?;
        let TpmuCapabilities::TpmProperties(found) = response.capability_data.data else {
            return Err(Error::Absent);
        };
        let found = found.iter().find(|found| found.property == property);
        Ok(found.ok_or(Error::Absent)?.value.value())
    }

    fn flush(&mut self, flush_handle: TpmHandle) -> Result<(), Error> {
        let command = TpmFlushContextCommand { handles: [], flush_handle };
        self.call::<_, TpmFlushContextResponse>(&command, &Request::OUTSIDE).map(drop)
    }

    /// Takes any byte stream to a TPM that has been started up.
    pub fn new(stream: impl io::Read + io::Write + Send + 'static) -> Self {
        Self::over(Box::new(stream))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream: Some(stream), session: None, endorsement: None }
    }

    /// Extends `digest` into a PCR of the SHA-256 bank (part 3, `TPM2_PCR_Extend`).
    pub fn pcr_extend(&mut self, pcr: u8, digest: &Digest) -> Result<(), Error> {
        select([pcr])?;
        let mut digests = TpmlDigestValues::new();
        let digest = TpmuHa::Digest(TpmBuffer::try_from(&digest[..])?);
        digests.try_push(TpmtHa { hash_alg: TpmAlgId::Sha256, digest })?;
        let command = TpmPcrExtendCommand { handles: [u32::from(pcr).into()], digests };
        let request = Request::by(&[Auth::Value(&[])], &[]);
        self.call::<_, TpmPcrExtendResponse>(&command, &request).map(drop)
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
            let response: TpmPcrReadResponse = self.call(&command, &Request::default())?;
            let value = response.pcr_values.first().map(|digest| Digest::try_from(&digest[..]));
            // A TPM without this PCR or this bank gives an empty list.
            let Some(Ok(value)) = value else { return Err(Error::PcrIndex(pcr)) };
            values.insert(pcr, value);
        }
        Ok(values)
    }

    /// Makes a primary key from a template: the same TPM seed and template give the same key. The handle
    /// lives as long as `with` runs.
    pub(crate) fn with_primary<T>(
        &mut self,
        hierarchy: TpmRh,
        auth: &[u8],
        template: TpmtPublic,
        with: impl FnOnce(&mut Self, &Object) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let command = TpmCreatePrimaryCommand {
            handles: [hierarchy.value().into()],
            in_public: Tpm2bPublic { inner: template },
            ..Default::default()
        };
        let made: TpmCreatePrimaryResponse = self.call(&command, &Request::by(&[Auth::Value(auth)], &[]))?;
        let [handle] = made.handles;
        self.with_context(handle, |tpm| with(tpm, &Object::new(handle, &made.out_public)?))
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

    pub(crate) fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        request: &Request<'_>,
    ) -> Result<R, Error> {
        Ok(self.send(Command::new(command)?, request, R::HANDLES)?.body()?)
    }

    /// Sends a command, through the session if there is one; its response has this many handles.
    pub(crate) fn send(
        &mut self,
        mut command: Command,
        request: &Request<'_>,
        handles: usize,
    ) -> Result<Answer, Error> {
        let Some(session) = self.session.as_ref().filter(|_| !request.outside) else {
            if !request.is_public() {
                return Err(Error::Unsecured);
            }
            let response = self.exchange(&command.frame(request.auths, None)?)?;
            return Ok(Answer::parse(response, handles)?);
        };
        let turn = Session::turn(request)?;
        let entry = session.authorise(&mut command, request.names, &turn)?;
        let frame = command.frame(request.auths, Some((session.handle, &entry)))?;
        let response = self.exchange(&frame)?;
        let checked = Answer::parse(response, handles).map_err(|_| Error::Altered).and_then(|mut answer| {
            let session = self.session.as_mut().ok_or(Error::Unsecured)?;
            session.accept(command.code, &mut answer, place(request.auths), &turn).map(|()| answer)
        });
        checked.inspect_err(|_| self.stream = None)
    }

    /// Sends a whole command; gives a whole successful response.
    fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
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
