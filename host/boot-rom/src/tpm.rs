//! The few TPM commands of the boot ROM (TCG TPM 2.0 Library, part 3).

use crate::{
    Digest, Refusal,
    decision::Memory,
    events::{Event, Events},
    record::{FLOOR_INDEX, RECORD, RECORD_INDEX, Record},
};
use tpm2_protocol::{
    TpmWriter,
    basic::{TpmBuffer, TpmUint16},
    data::{
        Tpm2bAuth, Tpm2bNonce, TpmAlgId, TpmRh, TpmSt, TpmaNv, TpmaSession, TpmiYesNo, TpmlDigestValues,
        TpmsAuthCommand, TpmtHa, TpmuHa,
    },
    frame::{
        TpmClearCommand, TpmClearResponse, TpmFrame, TpmHierarchyControlCommand, TpmHierarchyControlResponse,
        TpmNvReadCommand, TpmNvReadPublicCommand, TpmNvReadPublicResponse, TpmNvReadResponse,
        TpmPcrExtendCommand, TpmPcrExtendResponse, TpmResponse, TpmUnmarshalBody, tpm_marshal_command,
    },
};

/// Most bytes of a command or a response.
pub const MAX_FRAME: usize = tpm2_protocol::constant::TPM_MAX_COMMAND_SIZE;
/// `TPM_RC_YIELDED`, `TPM_RC_TESTING` and `TPM_RC_RETRY` (part 2, §6.6.3): ask again.
const RETRY: [u32; 3] = [0x908, 0x90a, 0x922];
const RETRIES: usize = 20;
/// `TPM_RC_HANDLE` for the first handle: there is no such index.
const NO_INDEX: u32 = 0x18b;

/// The way to a TPM.
pub trait Bus {
    /// Sends a whole command; gives the length of the whole response, `None` if there is none.
    fn exchange(&mut self, command: &[u8], response: &mut [u8; MAX_FRAME]) -> Option<usize>;
    /// Waits for some milliseconds before the TPM is asked again.
    fn pause(&mut self);
}

/// Why a command failed.
enum Failed {
    Code(u32),
    Other,
}

impl From<Failed> for Refusal {
    fn from(_: Failed) -> Self {
        Self::Tpm
    }
}

/// A TPM.
pub struct Tpm<B>(pub B);

impl<B: Bus> Tpm<B> {
    /// What the TPM remembers of this host. A record that is not yet locked is none: enrolment never ended.
    pub fn memory(&mut self) -> Result<Memory, Refusal> {
        let mut bytes = [0; RECORD];
        if !self.read(RECORD_INDEX, TpmaNv::WRITTEN | TpmaNv::WRITELOCKED, &mut bytes)? {
            return Ok(Memory::default());
        }
        let record = Record::parse(&bytes).ok_or(Refusal::Tpm)?;
        let mut counter = [0; 8];
        if !self.read(FLOOR_INDEX, TpmaNv::WRITTEN | TpmaNv::COUNTER, &mut counter)? {
            return Err(Refusal::Tpm);
        }
        let floor = record.floor(u64::from_be_bytes(counter)).ok_or(Refusal::Tpm)?;
        Ok(Memory { record: Some(record), floor })
    }

    /// Reads a whole index; false if there is none with these attributes.
    fn read(&mut self, index: u32, attributes: TpmaNv, to: &mut [u8]) -> Result<bool, Failed> {
        let public = match self.call(&TpmNvReadPublicCommand { handles: [index.into()] }, &[]) {
            Ok(TpmNvReadPublicResponse { nv_public, .. }) => nv_public.inner,
            Err(Failed::Code(NO_INDEX)) => return Ok(false),
            Err(other) => return Err(other),
        };
        if !public.attributes.contains(attributes) {
            return Ok(false);
        }
        let size = u16::try_from(to.len()).map_err(|_| Failed::Other)?;
        let command = TpmNvReadCommand {
            handles: [index.into(); 2],
            size: TpmUint16::new(size),
            offset: TpmUint16::new(0),
        };
        let read: TpmNvReadResponse = self.call(&command, &[password()])?;
        if public.data_size.value() != size || read.data.len() != to.len() {
            return Err(Failed::Other);
        }
        to.copy_from_slice(&read.data);
        Ok(true)
    }

    /// Forgets everything that was ever made on this TPM (`TPM2_Clear`), by the right of whoever stands at the board.
    pub fn clear(&mut self) -> Result<(), Refusal> {
        let command = TpmClearCommand { handles: [TpmRh::Platform.value().into()] };
        self.call::<_, TpmClearResponse>(&command, &[password()])?;
        Ok(())
    }

    /// Takes that right away until the next power cycle. It fails if that was done before: then this is no start.
    pub fn close_platform(&mut self) -> Result<(), Refusal> {
        let command = TpmHierarchyControlCommand {
            handles: [TpmRh::Platform.value().into()],
            enable: TpmRh::Platform,
            state: TpmiYesNo(false),
        };
        self.call::<_, TpmHierarchyControlResponse>(&command, &[password()])?;
        Ok(())
    }

    /// Measures and notes it.
    pub fn measure(
        &mut self,
        events: &mut Events,
        pcr: u8,
        name: &str,
        digest: &Digest,
    ) -> Result<(), Refusal> {
        self.extend(pcr, digest)?;
        let event = Event::new(pcr, name, digest).ok_or(Refusal::Tpm)?;
        events.push(event).map_err(|_| Refusal::Tpm)
    }

    /// Extends a PCR (`TPM2_PCR_Extend`).
    pub fn extend(&mut self, pcr: u8, digest: &Digest) -> Result<(), Refusal> {
        let mut digests = TpmlDigestValues::new();
        let digest = TpmBuffer::try_from(&digest[..]).map_err(|_| Refusal::Tpm)?;
        let digest = TpmtHa { hash_alg: TpmAlgId::Sha256, digest: TpmuHa::Digest(digest) };
        digests.try_push(digest).map_err(|_| Refusal::Tpm)?;
        let command = TpmPcrExtendCommand { handles: [u32::from(pcr).into()], digests };
        self.call::<_, TpmPcrExtendResponse>(&command, &[password()])?;
        Ok(())
    }

    fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        auth: &[TpmsAuthCommand],
    ) -> Result<R, Failed> {
        let mut bytes = [0; MAX_FRAME];
        let mut writer = TpmWriter::new(&mut bytes);
        let tag = if auth.is_empty() { TpmSt::NoSessions } else { TpmSt::Sessions };
        tpm_marshal_command(command, tag, auth, &mut writer).map_err(|_| Failed::Other)?;
        let length = writer.len();
        let frame = bytes.get(..length).ok_or(Failed::Other)?;
        let mut response = [0; MAX_FRAME];
        for _ in 0..RETRIES {
            let length = self.0.exchange(frame, &mut response).ok_or(Failed::Other)?;
            let answer = response.get(..length).ok_or(Failed::Other)?;
            let code = answer.get(6..).and_then(<[u8]>::first_chunk).ok_or(Failed::Other)?;
            match u32::from_be_bytes(*code) {
                0 => {
                    let answer = TpmResponse::cast(answer).map_err(|_| Failed::Other)?;
                    return answer.unmarshal().map_err(|_| Failed::Other);
                }
                code if RETRY.contains(&code) => self.0.pause(),
                code => return Err(Failed::Code(code)),
            }
        }
        Err(Failed::Other)
    }
}

/// Authorises with an empty password (part 1, §19.4).
fn password() -> TpmsAuthCommand {
    TpmsAuthCommand {
        session_handle: TpmRh::Pw.value().into(),
        nonce: Tpm2bNonce::new(),
        session_attributes: TpmaSession::CONTINUE_SESSION,
        hmac: Tpm2bAuth::new(),
    }
}

/// How many bytes a response has whose first bytes these are; `None` while that is not known, or if it is impossible
/// (part 1, §18).
pub fn response_size(have: &[u8]) -> Option<usize> {
    let size = usize::try_from(u32::from_be_bytes(*have.get(2..)?.first_chunk()?)).ok()?;
    (10..=MAX_FRAME).contains(&size).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers the same, whatever it is asked.
    struct Parrot(Vec<u8>, usize);

    impl Bus for Parrot {
        fn exchange(&mut self, _: &[u8], response: &mut [u8; MAX_FRAME]) -> Option<usize> {
            response.get_mut(..self.0.len())?.copy_from_slice(&self.0);
            Some(self.0.len())
        }
        fn pause(&mut self) {
            self.1 += 1;
        }
    }

    fn says(code: u32) -> Tpm<Parrot> {
        let bytes = [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
        Tpm(Parrot(bytes, 0))
    }

    #[test]
    fn a_tpm_without_a_record_belongs_to_a_host_in_its_first_state() {
        assert_eq!(says(NO_INDEX).memory(), Ok(Memory::default()));
        assert_eq!(says(0x101).memory(), Err(Refusal::Tpm));
    }

    #[test]
    fn a_tpm_that_is_busy_for_ever_is_given_up() {
        let mut tpm = says(RETRY[2]);
        assert_eq!(tpm.extend(8, &[0; 32]), Err(Refusal::Tpm));
        assert_eq!(tpm.0.1, RETRIES);
    }

    #[test]
    fn sizes_of_responses_are_bounded() {
        assert_eq!(response_size(&[0x80, 1, 0, 0, 0]), None);
        for (size, good) in [(9, false), (10, true), (4096, true), (4097, false), (u32::MAX, false)] {
            let size: u32 = size;
            assert_eq!(
                response_size(&[&[0x80, 1][..], &size.to_be_bytes()].concat()).is_some(),
                good,
                "{size}"
            );
        }
    }

    proptest! {
        /// Whatever a TPM answers, the ROM neither panics nor takes it for a record.
        #[test]
        fn answers_are_hostile(body in prop::collection::vec(any::<u8>(), 0..200), sessions in any::<bool>()) {
            let size = u32::try_from(body.len() + 10).unwrap().to_be_bytes();
            let tag = if sessions { 2 } else { 1 };
            let bytes = [&[0x80, tag], &size[..], &[0; 4], &body].concat();
            let mut tpm = Tpm(Parrot(bytes, 0));
            prop_assert!(!tpm.memory().is_ok_and(|memory| memory.record.is_some()));
            let _ = tpm.extend(8, &[0; 32]);
        }
    }
}
