//! One instance's module: from a request's bytes to the answer's.

use crate::{
    Bank, Digest, ErrorCode, Extension, Issuer, LOCKED_AT_START, PCRS, PcrError, Request, Response,
    document::{Contents, Signer},
};
use aws_lc_rs::rand;
use ids::InstanceId;
use serde_bytes::ByteBuf;
use std::time::Duration;

/// Longest field of a guest's own in a document, in bytes.
pub const MAX_FIELD: usize = 1024;
/// Bytes of [`Request::GetRandom`].
const RANDOM: usize = 256;

/// The module of one start of one instance. Times are since 1970, UTC.
#[derive(Debug)]
pub struct Module {
    id: String,
    serial: [u8; 8],
    bank: Bank,
    signer: Option<Signer>,
}

impl Module {
    /// The module of an instance that starts at `now`, its registers extended as told and the lower half locked.
    /// `random` tells it from others of the same instance and time.
    pub fn new(
        instance: &InstanceId,
        registers: &[Extension],
        now: Duration,
        random: u16,
    ) -> Result<Self, PcrError> {
        let mut bank = Bank::default();
        for Extension { register, data } in registers {
            bank.extend(*register, data)?;
        }
        bank.lock_first(LOCKED_AT_START)?;
        let serial = milliseconds(now) << 16 | u64::from(random);
        Ok(Self {
            id: format!("{instance}-enc{serial:016x}"),
            serial: serial.to_be_bytes(),
            bank,
            signer: None,
        })
    }

    /// Its name: the instance and its start.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Answers one request in at most `room` bytes. `issuer` is what certifies documents, if there is one.
    pub fn handle(&mut self, request: &[u8], room: usize, issuer: Option<&Issuer>, now: Duration) -> Vec<u8> {
        let answer = Request::decode(request).and_then(|request| self.answer(request, issuer, now));
        answer.unwrap_or_else(Response::Error).encode(room)
    }

    fn answer(
        &mut self,
        request: Request,
        issuer: Option<&Issuer>,
        now: Duration,
    ) -> Result<Response, ErrorCode> {
        let bytes = |value: &[u8]| ByteBuf::from(value.to_vec());
        Ok(match request {
            Request::DescribeNSM => Response::DescribeNSM {
                version_major: 1,
                version_minor: 0,
                version_patch: 0,
                module_id: self.id.clone(),
                max_pcrs: PCRS,
                locked_pcrs: self.bank.locked().map(|(index, _)| index).collect(),
                digest: Digest::SHA384,
            },
            Request::DescribePCR { index } => {
                let (lock, value) = self.bank.describe(index)?;
                Response::DescribePCR { lock, data: bytes(value) }
            }
            Request::ExtendPCR { index, data } => {
                Response::ExtendPCR { data: bytes(self.bank.extend(index, &data)?) }
            }
            Request::LockPCR { index } => {
                self.bank.lock(index)?;
                Response::LockPCR
            }
            Request::LockPCRs { range } => {
                self.bank.lock_first(range)?;
                Response::LockPCRs
            }
            Request::GetRandom => {
                let mut random = vec![0; RANDOM];
                rand::fill(&mut random).map_err(|_| ErrorCode::InternalError)?;
                Response::GetRandom { random: random.into() }
            }
            Request::Attestation { user_data, nonce, public_key } => {
                let fields = [&user_data, &nonce, &public_key];
                if fields.into_iter().flatten().any(|field| field.len() > MAX_FIELD) {
                    return Err(ErrorCode::InputTooLarge);
                }
                let contents = Contents {
                    module_id: &self.id,
                    timestamp: milliseconds(now),
                    bank: &self.bank,
                    user_data,
                    nonce,
                    public_key,
                };
                let issuer = issuer.ok_or(ErrorCode::InternalError)?;
                let signer = Signer::still_good(self.signer.take(), issuer, &self.id, self.serial, now);
                let signer = self.signer.insert(signer.ok_or(ErrorCode::InternalError)?);
                Response::Attestation {
                    document: signer.sign(contents, issuer).ok_or(ErrorCode::InternalError)?.into(),
                }
            }
        })
    }
}

fn milliseconds(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX) & (u64::MAX >> 16)
}
